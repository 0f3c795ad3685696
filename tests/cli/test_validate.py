"""``ckptconv validate``: verdicts, causes, exit codes, and how little it says about much."""

from __future__ import annotations

import json
from collections import OrderedDict
from itertools import islice, pairwise, product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from ckptconv.cli.text.validate import findings
from ckptconv.core.report import Finding

from .conftest import Run, strict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARAMS: dict[str, Any] = {"input_size": 8, "hidden_layers": [6, 5], "output_size": 3}
VALID = "valid: fits mlp (input_size 8, hidden_layers [6, 5], output_size 3)"
_UNKNOWN = "nothing says which architecture this is: "

State = OrderedDict[str, torch.Tensor]


class Network(nn.Module):
    """The kind of network that README's metadata checkpoint is of."""

    def __init__(self, input_size: int, hidden_layers: list[int], output_size: int) -> None:
        super().__init__()
        widths = [input_size, *hidden_layers]
        self.hidden_layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(widths[-1], output_size)


def state() -> State:
    return OrderedDict(Network(**PARAMS).state_dict())


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save a state_dict, with the metadata given, as a .pth."""

    def saved(tensors: State, name: str = "model.pth", **metadata: object) -> Path:
        torch.save({**metadata, "state_dict": tensors} if metadata else tensors, tmp_path / name)
        return tmp_path / name

    return saved


def test_a_metadata_checkpoint_fits_with_no_option(run: Run, save: Callable[..., Path]) -> None:
    result = run("validate", save(state(), **PARAMS))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{VALID}, by its metadata",
        "  also     variant modules",
        "  assumed  activation relu, head log_softmax (tensors do not say)",
    ]


def test_a_raw_checkpoint_fits_by_its_names(run: Run, save: Callable[..., Path]) -> None:
    assert run("validate", save(state())).stdout.startswith(f"{VALID}, by its names\n")


def test_the_named_architecture_is_the_one_that_counts(run: Run, save: Callable[..., Path]) -> None:
    path = save(state(), **PARAMS)
    assert run("validate", path, "--arch", "mlp").stdout.startswith(f"{VALID}\n")
    result = run("validate", path, "--arch", "lenet")
    assert result.exit_code == 1
    assert result.stdout.startswith("invalid: does not fit lenet")


def test_a_config_beside_the_file_is_evidence(run: Run, save: Callable[..., Path], tmp_path: Path) -> None:
    path = save(OrderedDict({"model.norm.weight": torch.ones(4)}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    result = run("validate", path)
    assert result.exit_code == 1
    assert ", by the config.json beside it: " in result.stdout.splitlines()[0]
    (tmp_path / "config.json").write_text("[")
    assert run("validate", path, "--arch", "llama", "--json").exit_code == 1


@pytest.mark.parametrize("what", ["an optimizer's state", "nothing"])
def test_a_file_beside_a_config_that_is_no_model_gets_no_verdict(
    what: str, run: Run, save: Callable[..., Path], tmp_path: Path
) -> None:
    """A trainer's folder has its optimizer, its scheduler and its arguments beside the model."""
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    path = tmp_path / "optimizer.pt"
    torch.save(optimizer.state_dict() if what != "nothing" else {"last_epoch": 3}, path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 4}))
    result = run("validate", path)
    assert result.exit_code == 2
    why = "it has no tensors, and so not one of llama's" if what == "nothing" else "this is the state of an optimizer"
    assert why in result.stderr
    assert run("validate", path, "--arch", "llama").exit_code == 1


def test_each_cause_has_what_was_expected_and_found_and_a_hint(run: Run, save: Callable[..., Path]) -> None:
    tensors = state()
    tensors["output.weight"] = tensors["output.weight"].T.contiguous()
    result = run("validate", save(tensors, **PARAMS))
    assert result.exit_code == 1
    verdict, *lines = result.stdout.splitlines()
    assert verdict.startswith("invalid: does not fit mlp (")
    assert verdict.endswith(", by its metadata: 1 error")
    assert lines[-3:] == [
        "error: transposed",
        "  output.weight is transposed: expected [3, 5], found [5, 3]",
        "    hint: state_dict['output.weight'] = state_dict['output.weight'].T.contiguous()",
    ]


def test_the_hint_for_a_prefix_mends_it_when_it_is_pasted(run: Run, save: Callable[..., Path]) -> None:
    state_dict = OrderedDict((f"module.{name}", tensor) for name, tensor in state().items())
    result = run("validate", save(state_dict, **PARAMS))
    assert result.exit_code == 1
    assert result.stdout.count("\n  ") - result.stdout.count("\n    ") == 3, "one finding under two lines of params"
    (hint,) = (line.split("hint: ")[1] for line in result.stdout.splitlines() if "hint: " in line)
    names: dict[str, State] = {"state_dict": state_dict}
    exec(hint if hint.startswith("state_dict = ") else f"state_dict = {hint}", names)
    assert run("validate", save(names["state_dict"], "mended.pth", **PARAMS)).exit_code == 0


def test_causes_come_before_symptoms_and_errors_before_warnings(run: Run, save: Callable[..., Path]) -> None:
    tensors = state()
    tensors["extra"] = torch.zeros(2)
    tensors["hidden_layers.0.weight"] = torch.zeros(6, 8)
    tensors["output.weight"] = tensors["output.weight"].T.contiguous()
    result = run("validate", save(tensors, **{**PARAMS, "input_size": 9}), "--values")
    heads = [line for line in result.stdout.splitlines() if line.startswith(("error: ", "warning: "))]
    assert heads == ["error: param-conflict", "error: transposed", "error: unexpected-tensor", "warning: all-zero (2)"]
    assert result.stdout.splitlines()[0].endswith(": 3 errors, 2 warnings")


def test_values_are_read_only_when_asked_for(run: Run, save: Callable[..., Path]) -> None:
    tensors = state()
    tensors["output.bias"][1] = torch.nan
    path = save(tensors, **PARAMS)
    assert run("validate", path).exit_code == 0
    result = run("validate", path, "--values")
    assert result.exit_code == 1
    assert "error: non-finite\n  output.bias holds 1 NaN among 3 values\n" in result.stdout


def test_params_may_be_set(run: Run, save: Callable[..., Path]) -> None:
    path = save(state())
    assert run("validate", path, "--arch", "mlp", "--set", "hidden_layers=[6, 5]").exit_code == 0
    result = run("validate", path, "--arch", "mlp", "--set", "hidden_layers=[6, 4]")
    assert result.exit_code == 1
    assert "hidden_layers [6, 4]" in result.stdout.splitlines()[0]
    for name, hint in (("width", "it has input_size, "), ("hiden_layers", "did you mean 'hidden_layers'?\n")):
        unknown = run("validate", path, "--arch", "mlp", "--set", f"{name}=1")
        assert unknown.exit_code == 2
        assert unknown.stderr.startswith(f"ckptconv: error: 'mlp' has no param {name!r}\nhint: {hint}")


def test_what_is_set_outranks_the_metadata(run: Run, save: Callable[..., Path]) -> None:
    first, *lines = run("validate", save(state(), **PARAMS), "--set", "output_size=4").stdout.splitlines()
    assert "output_size 4" in first
    assert "  output_size: metadata says 3; --set says 4" in lines
    assert "  output.weight: expected shape [4, 5], found [3, 5]" in lines


def test_another_checkpoint_is_an_architecture(run: Run, save: Callable[..., Path]) -> None:
    mine, theirs = save(state()), save(OrderedDict(Network(8, [6, 4], 3).state_dict()), "theirs.pth")
    assert run("validate", mine, "--arch", mine).stdout == f"valid: fits {mine}\n"
    assert run("validate", mine, "--arch", theirs).exit_code == 1
    assert run("validate", mine, "--arch", theirs, "--set", "x=1").exit_code == 2
    absent = run("validate", mine, "--arch", mine.with_name("thiers.pth"))
    assert absent.stderr == (
        f"ckptconv: error: {mine.with_name('thiers.pth')}: cannot open: no such file or directory\n"
        f"hint: did you mean '{theirs}'?\n"
    )


def test_a_python_class_is_called_with_the_metadata(run: Run, save: Callable[..., Path], tmp_path: Path) -> None:
    models = tmp_path / "models.py"
    models.write_text(
        "from torch import nn\n"
        "def net(input_size, output_size, activation='relu'):\n"
        "    return nn.Sequential(nn.Linear(input_size, output_size))\n"
    )
    path = save(OrderedDict(nn.Sequential(nn.Linear(4, 2)).state_dict()), input_size=4, output_size=2)
    result = run("validate", path, "--arch", f"{models}:net")
    assert result.stdout == f"valid: fits {models}:net (input_size 4, output_size 2)\n"
    assert run("validate", path, "--arch", f"{models}:net", "--set", "output_size=3").exit_code == 1


@pytest.mark.parametrize(
    ("more", "why", "hint"),
    [
        (
            {"a": 1, "b": 2, "c": 3}, f"{_UNKNOWN}the library has none with such names ('a', 'b' and 1 more)",
            "--arch takes a name",
        ),
        (
            {**{name: tuple(tensor.shape) for name, tensor in state().items()}, **{f"x{i}": 2 for i in range(25)}},
            f"{_UNKNOWN}the library has none with such names ('hidden_layers.0.weight', ", "--arch takes a name",
        ),
        (
            {"embedding.weight": (100, 16)}, f"{_UNKNOWN}the library has none with such names ('embedding.weight')",
            "--arch takes a name",
        ),
        ({}, "there are no tensors in the model", "ckptconv inspect says what is in the file"),
        (
            {**{name: tuple(tensor.shape) for name, tensor in state().items()}, **{f"x{i}": 2 for i in range(9)}},
            f"{_UNKNOWN}the nearest in the library, mlp, has 40% of the names in common",
            "--arch mlp says what differs; ",
        ),
    ],
    ids=["strangers", "too few of one", "one layer", "nothing", "some of one"],
)  # fmt: skip
def test_no_evidence_is_trouble_and_says_what_the_names_say(
    run: Run, save: Callable[..., Path], more: dict[str, Any], why: str, hint: str
) -> None:
    path = save(OrderedDict((name, torch.zeros(shape)) for name, shape in more.items()))
    result = run("validate", path)
    assert result.exit_code == 2
    start = f"ckptconv: error: {path}: {why}"
    assert result.stderr.startswith(start), result.stderr
    assert f"\nhint: {hint}" in result.stderr


def test_a_misspelt_architecture_gets_the_nearest(run: Run, save: Callable[..., Path]) -> None:
    result = run("validate", save(state()), save(state(), "b.pth"), "--arch", "resnt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "ckptconv: error: there is no architecture 'resnt'\nhint: did you mean 'resnet'?\n"


def test_one_bad_file_does_not_stop_the_others(run: Run, save: Callable[..., Path], tmp_path: Path) -> None:
    good, bad, absent = save(state()), save(state(), "bad.pth", **{**PARAMS, "output_size": 4}), tmp_path / "absent.pth"
    result = run("validate", absent, bad, good)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"ckptconv: error: {absent}: ")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{bad}: invalid: does not fit mlp (")
    assert f"{good}: {VALID}, by its names" in lines
    assert run("validate", bad, good).exit_code == 1
    assert run("validate", good, good).exit_code == 0


def test_json_has_the_verdict_and_every_finding(run: Run, save: Callable[..., Path]) -> None:
    path = save(state(), **{**PARAMS, "input_size": 9})
    document = strict(run("validate", path, "--json").stdout)
    findings = document.pop("findings")
    params = {key: document["params"][key] for key in PARAMS}
    assert document == {
        "schema": 1, "path": str(path), "valid": False, "arch": "mlp", "evidence": "metadata",
        "params": document["params"],
    }  # fmt: skip
    assert params == PARAMS, "the tensors outvote the metadata"
    assert [(one["code"], one["where"]) for one in findings] == [("param-conflict", "input_size")]


def test_json_of_several_files_is_one_document(run: Run, save: Callable[..., Path], tmp_path: Path) -> None:
    absent = tmp_path / "absent.pth"
    result = run("validate", save(state()), absent, "--json")
    files = strict(result.stdout)["files"]
    assert isinstance(files, list)
    assert (result.exit_code, files[0]["valid"], files[1].keys()) == (2, True, {"path", "error"})
    assert files[1]["error"]["path"] == str(absent)


def decoder(layers: int) -> State:
    """A llama of many small layers."""
    tensors = OrderedDict({"model.embed_tokens.weight": torch.zeros(7, 4)})
    shapes = {
        "self_attn.q_proj": (4, 4), "self_attn.k_proj": (2, 4), "self_attn.v_proj": (2, 4), "self_attn.o_proj": (4, 4),
        "mlp.gate_proj": (5, 4), "mlp.up_proj": (5, 4), "mlp.down_proj": (4, 5), "input_layernorm": (4,),
        "post_attention_layernorm": (4,),
    }  # fmt: skip
    for layer in range(layers):
        tensors |= {f"model.layers.{layer}.{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    return tensors | {"model.norm.weight": torch.zeros(4), "lm_head.weight": torch.zeros(7, 4)}


def test_findings_that_differ_only_in_their_numbers_are_one_line(run: Run, save: Callable[..., Path]) -> None:
    tensors = decoder(30)
    for layer in range(30):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        tensors[name] = tensors[name].T.contiguous()
    del tensors["model.layers.3.input_layernorm.weight"], tensors["model.layers.9.input_layernorm.weight"]
    lines = run("validate", save(tensors)).stdout.splitlines()
    assert "error: transposed (30)" in lines
    assert "  model.layers.0–29.mlp.up_proj.weight ×30 is transposed: expected [5, 4], found [4, 5]" in lines
    assert "  model.layers.{3,9}.input_layernorm.weight ×2 is missing (shape [4])" in lines


def test_two_thousand_findings_take_forty_lines(run: Run, save: Callable[..., Path]) -> None:
    words = ["".join(letters) for letters in islice(product("abcdefghij", repeat=4), 2_000)]
    tensors = state() | {word: torch.zeros(1) for word in words}
    tensors["output.weight"] = tensors["output.weight"].T.contiguous()
    path = save(tensors, **PARAMS)
    result = run("validate", path)
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert len(lines) <= 40
    assert lines[-1].startswith("… and 1,9")
    assert lines[-1].endswith(" more; --json has all")
    assert "error: transposed" in lines, "no cause is crowded out"
    assert "error: unexpected-tensor (2,000)" in lines
    assert len(strict(run("validate", path, "--json").stdout)["findings"]) == 2_001


@pytest.mark.parametrize("name", ["n" * 100_000, "1" * 5_000, "\u0661\u0662", "a.\x1b[31m\n.b", "lone\udc80"])
def test_names_of_any_kind_are_reported_in_short_printable_lines(
    run: Run, save: Callable[..., Path], name: str
) -> None:
    tensors = state() | {f"{name}{i}": torch.zeros(1) for i in range(2)}
    result = run("validate", save(tensors), "--arch", "mlp")
    assert result.exit_code == 1
    assert all(line.isprintable() and len(line) < 400 for line in result.stdout.splitlines())


NOT_MLPS = {
    "a linear layer and its normalisation": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
    "convolutions": nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    ),
}


@pytest.mark.parametrize("network", NOT_MLPS.values(), ids=NOT_MLPS)
def test_a_numbered_row_of_other_layers_is_no_mlp_that_does_not_fit(
    network: nn.Module, run: Run, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "a.pth")
    done = run("validate", tmp_path / "a.pth")
    assert done.exit_code == 2, done.output
    assert "nothing says which architecture this is" in done.stderr
    asked = run("validate", tmp_path / "a.pth", "--arch", "mlp")
    assert asked.exit_code == 1, asked.output


def test_where_one_error_explains_the_rest_these_are_only_counted() -> None:
    found = [
        Finding("unexpected-tensor", "error", "a", "a is not in the architecture"),
        Finding("architecture", "error", "", "the names are those of llama", hint="--arch llama"),
        Finding("dtype-mismatch", "warning", "b", "b is F16"),
        Finding("missing-tensor", "error", "c", "c is missing"),
    ]
    lines = findings(found)
    assert lines[-1] == "… and 2 errors that it explains; --json has all"
    assert not any("a is not" in line or "c is missing" in line for line in lines)
    assert any("b is F16" in line for line in lines)
    assert any("a is not" in line for line in findings([one for one in found if one.code != "architecture"]))
