"""``ckptconv arch``: the library's list, one architecture, a spec from checkpoints."""

from __future__ import annotations

import tomllib
from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from ckptconv.arch.load import library, load_spec

from .conftest import Run, strict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MLP = ("--set", "input_size=8", "--set", "hidden_layers=[6, 5]", "--set", "output_size=3")

SPEC = """
spec = 1
name = "pair"
summary = "two \\u001b[31m"
[params]
width = { type = "int", summary = "of both" }
bias = { type = "bool", default = true }
[let]
half = "width // 2"
[repeat]
i = 2
[tensors]
"layers.{i}.weight" = "width half"
"layers.{i}.bias" = { shape = "width", when = "bias" }
"head.weight" = { shape = "width half", tied = "layers.0.weight", optional = true, dtype = "F32 F16" }
[constraints]
"an even width" = "width % 2 == 0"
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "pair.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def family(tmp_path: Path) -> Callable[..., Path]:
    """Save a network of two layers in any widths."""

    def saved(name: str, *widths: int) -> Path:
        layers = {f"fc{i}": nn.Linear(a, b) for i, (a, b) in enumerate(pairwise(widths))}
        torch.save(nn.Sequential(OrderedDict(layers)).state_dict(), tmp_path / name)
        return tmp_path / name

    return saved


def test_the_list_has_a_line_for_each_architecture_of_the_library(run: Run) -> None:
    result = run("arch", "list")
    head, *lines = result.stdout.splitlines()
    assert (result.exit_code, head.split()) == (0, ["NAME", "SUMMARY"])
    assert [line.split(maxsplit=1) for line in lines] == [[entry.name, entry.summary] for entry in library()]


def test_the_list_is_data_too(run: Run) -> None:
    entries = strict(run("arch", "list", "--json").stdout)["architectures"]
    assert isinstance(entries, list)
    (mlp,) = (entry for entry in entries if entry["name"] == "mlp")
    assert mlp["required"] == ["input_size", "hidden_layers", "output_size"]
    assert mlp["digest"] == load_spec("mlp").digest


def test_show_says_what_an_architecture_is_described_by(run: Run) -> None:
    result = run("arch", "show", "mlp")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert result.stdout.startswith("mlp: Fully connected classifier")
    assert ["input_size", "int", "required", "also", "called", "input_dim,", "in_features"] in rows
    assert ["activation", "str", "default", "relu"] in [row[:4] for row in rows]
    assert "default none; one of none, batch, layer" in result.stdout
    assert "modules   hidden_layers.0 … hidden_layers.N, then output" in result.stdout


def test_the_command_that_show_proposes_shows_the_tensors(run: Run) -> None:
    *_, proposal = run("arch", "show", "mlp").stdout.splitlines()
    _, command = proposal.split(": ckptconv ")
    values = {"input_size": "8", "hidden_layers": "[6,5]", "output_size": "3"}
    arguments = [word.replace("VALUE", values.get(word.partition("=")[0], "")) for word in command.split()]
    assert "6 tensors" in run(*arguments).stdout


def test_params_expand_to_the_table_of_tensors(run: Run) -> None:
    result = run("arch", "show", "mlp", *MLP)
    assert result.exit_code == 0
    assert "6 tensors, 107 parameters" in result.stdout
    rows = [line.strip("│├└─ ").split(maxsplit=1) for line in result.stdout.splitlines()]
    assert ["output"] in rows
    assert [row[1] for row in rows if row and row[0].endswith("weight")] == ["[6, 8]", "[5, 6]", "[3, 5]"]


def test_repeated_layers_are_one_line_and_ties_are_reported(run: Run, spec: Path) -> None:
    result = run("arch", "show", spec, "--set", "width=4")
    assert result.exit_code == 0
    assert "layers.0–1 ×2" in result.stdout
    assert "optional, may be = layers.0.weight, F16, F32" in result.stdout
    assert result.stdout.startswith("pair: two \\x1b[31m\n")


def test_the_table_is_whole_in_json(run: Run, spec: Path) -> None:
    document = strict(run("arch", "show", spec, "--set", "width=4", "--json").stdout)
    assert document["values"] == {"width": 4, "bias": True}
    tensors = document["tensors"]
    assert isinstance(tensors, list)
    assert [one["name"] for one in tensors] == [
        "layers.0.weight", "layers.1.weight", "layers.0.bias", "layers.1.bias", "head.weight",
    ]  # fmt: skip
    assert tensors[-1] == {
        "name": "head.weight", "shape": [4, 2], "optional": True, "tied_to": "layers.0.weight",
        "dtypes": ["F16", "F32"],
    }  # fmt: skip
    without = strict(run("arch", "show", spec, "--json").stdout)
    assert "tensors" not in without
    assert without["constraints"] == {"an even width": "width % 2 == 0"}


def test_json_of_the_table_is_what_torch_makes(run: Run) -> None:
    tensors = strict(run("arch", "show", "mlp", *MLP, "--set", "variant=numbered", "--json").stdout)["tensors"]
    real = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).state_dict()
    assert {one["name"]: one["shape"] for one in tensors} == {name: list(t.shape) for name, t in real.items()}


def test_params_that_break_a_constraint_are_a_finding(run: Run, spec: Path) -> None:
    result = run("arch", "show", spec, "--set", "width=3")
    assert result.exit_code == 1
    assert "error: an even width: width = 3" in result.stdout


def test_a_part_of_the_params_is_not_enough(run: Run) -> None:
    result = run("arch", "show", "mlp", "--set", "input_size=8", "--set", "output_size=3")
    assert result.exit_code == 2
    assert result.stderr == (
        "ckptconv: error: 'mlp' needs a value for hidden_layers\nhint: --set hidden_layers=VALUE\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["resnt"], "there is no architecture 'resnt'", "did you mean 'resnet'?"),
        (["x/y"], "there is no architecture 'x/y'", "a library name (ckptconv arch list) or a spec file, my.toml"),
        (["mlp", "--set", "input_size=x"], "--set input_size=x: expected an integer", "such as --set input_size=64"),
        (["mlp", "--set", "width=1"], "'mlp' has no param 'width'", "it has input_size, "),
    ],
)
def test_what_does_not_exist_is_named(run: Run, arguments: list[str], message: str, hint: str) -> None:
    result = run("arch", "show", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    error, told = result.stderr.splitlines()
    assert error == f"ckptconv: error: {message}"
    assert told.startswith(f"hint: {hint}")


def test_a_mistake_in_a_spec_is_reported_with_its_line(run: Run, spec: Path) -> None:
    spec.write_text(SPEC.replace('"width half"\n"layers.{i}.bias"', '"widht half"\n"layers.{i}.bias"'))
    result = run("arch", "show", spec)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"ckptconv: error: {spec}: line 13, ")
    assert run("arch", "show", spec.with_name("absent.toml")).exit_code == 2


def test_a_spec_that_was_inferred_accepts_the_family_and_refuses_others(
    run: Run, family: Callable[..., Path], tmp_path: Path
) -> None:
    small, large, third = family("a.pth", 8, 6, 3), family("b.pth", 9, 7, 4), family("c.pth", 20, 11, 5)
    target = tmp_path / "pair.toml"
    result = run("arch", "infer", small, large, "-o", target)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"2 checkpoints → {target}: ")
    assert run("validate", third, "--arch", target).exit_code == 0
    assert run("validate", family("d.pth", 8, 6, 6, 3), "--arch", target).exit_code == 1
    assert tomllib.loads(target.read_text())["name"] == "pair"


def test_without_a_target_the_spec_is_printed(run: Run, family: Callable[..., Path]) -> None:
    path = family("a.pth", 8, 6)
    text = run("arch", "infer", path).stdout
    assert tomllib.loads(text)["spec"] == 1
    document = strict(run("arch", "infer", path, "--json").stdout)
    assert (document["toml"], document["target"], document["sources"]) == (text, None, [str(path)])


def test_an_existing_spec_is_replaced_only_by_force(run: Run, family: Callable[..., Path], tmp_path: Path) -> None:
    path, target = family("a.pth", 8, 6), tmp_path / "old.toml"
    target.write_text("old")
    refused = run("arch", "infer", path, "-o", target)
    assert (refused.exit_code, target.read_text()) == (2, "old")
    assert refused.stderr.endswith("hint: add --force to replace it\n")
    assert run("arch", "infer", path, "-o", target, "--force").exit_code == 0
    assert target.read_text().startswith("spec = 1\n")


def test_a_spec_that_could_not_be_recognised_is_not_written(
    run: Run, family: Callable[..., Path], tmp_path: Path
) -> None:
    refused = run("arch", "infer", family("a.pth", 8, 6), "-o", tmp_path / "mlp")
    assert (refused.exit_code, (tmp_path / "mlp").exists()) == (2, False)
    assert refused.stderr.endswith(f"\nhint: -o {tmp_path / 'mlp.toml'}\n")


def test_a_source_that_cannot_be_read_leaves_no_spec(run: Run, family: Callable[..., Path], tmp_path: Path) -> None:
    target = tmp_path / "out.toml"
    result = run("arch", "infer", family("a.pth", 8, 6), tmp_path / "absent.pth", "-o", target, "--json")
    assert (result.exit_code, target.exists()) == (2, False)
    assert strict(result.stdout)["error"]["path"] == str(tmp_path / "absent.pth")
