"""``ckptconv convert``: what it writes, says and refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ckptconv import open as open_checkpoint
from ckptconv.cli.convert import LOSSES
from ckptconv.formats.targets.preflight import CODES

from .conftest import Run, strict

if TYPE_CHECKING:
    from pathlib import Path


def test_it_says_what_it_wrote_in_a_line(run: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    result = run("convert", model, target)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith(f"{model} → {target}: 2 tensors, ")
    assert "digest: xxh3-128:" in result.stdout
    assert load_file(target)["fc.weight"].tolist() == torch.arange(12.0).reshape(3, 4).tolist()


def test_an_existing_target_needs_force(run: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")
    refused = run("convert", model, target)
    assert (refused.exit_code, target.read_bytes()) == (2, b"old")
    assert refused.stderr == (
        f"ckptconv: error: {target}: the target exists already\nhint: add --force to replace it\n"
    )
    assert run("convert", model, target, "--force").exit_code == 0
    assert target.read_bytes() != b"old"


def test_formats_can_be_named(run: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "no-suffix"
    assert run("convert", model, target, "--to", "safetensors", "--from", "torch").exit_code == 0
    assert load_file(target)


def test_a_dry_run_writes_nothing_and_lists_losses(run: Run, hostile: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.pth"
    result = run("convert", hostile, target, "--dry-run")
    assert result.exit_code == 0
    assert "would be lost: " in result.stdout
    assert "nothing was written; to convert, agree with --allow-loss opaque" in result.stdout
    assert not target.exists()


def test_a_dry_run_without_loss_says_that_nothing_was_written(run: Run, model: Path, tmp_path: Path) -> None:
    result = run("convert", model, tmp_path / "out.safetensors", "--dry-run")
    assert result.stdout.endswith("nothing was written\n")


def test_a_call_in_the_file_is_refused_until_agreed_to(run: Run, hostile: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.pth"
    refused = run("convert", hostile, target)
    assert (refused.exit_code, target.exists()) == (2, False)
    error, *details, hint = refused.stderr.splitlines()
    assert error.startswith(f"ckptconv: error: {hostile}: ")
    assert details
    assert all(line.startswith("  ") for line in details)
    assert hint.startswith("hint: ")
    agreed = run("convert", hostile, target, "--allow-loss", "opaque")
    assert (agreed.exit_code, target.exists()) == (0, True)
    assert "\nlost: " in agreed.stdout


def test_bare_leaves_metadata_and_extras_out(run: Run, training: Path, tmp_path: Path) -> None:
    target = tmp_path / "bare.pth"
    assert run("convert", training, target, "--bare").exit_code == 0
    assert list(torch.load(target, weights_only=True)) == ["weight"]


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_bare_with_meta_keeps_that_metadata_alone(run: Run, training: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"bare.{suffix}"
    assert run("convert", training, target, "--bare", "--meta", "widths=[1, 2]").exit_code == 0
    with open_checkpoint(target) as checkpoint:
        assert (checkpoint.metadata, list(checkpoint.all_tensors)) == ({"widths": [1, 2]}, ["weight"])


def test_tensors_that_are_carried_along_are_reported(run: Run, training: Path, tmp_path: Path) -> None:
    result = run("convert", training, tmp_path / "out.safetensors")
    assert "info: 1 tensor outside of the state_dict is carried along; --bare leaves it out" in result.stdout


def test_meta_is_read_as_json_and_else_as_text(run: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "meta.pth"
    options = ["a=3", "b=[1, 2.5]", "c=plain text", "d=", "e=NaN", "f=x=y", 'g="quoted"']
    arguments = [part for option in options for part in ("--meta", option)]
    assert run("convert", model, target, *arguments).exit_code == 0
    loaded = torch.load(target, weights_only=True)
    wanted = {"a": 3, "b": [1, 2.5], "c": "plain text", "d": "", "e": "NaN", "f": "x=y", "g": "quoted"}
    assert {key: loaded[key] for key in wanted} == wanted
    assert loaded["input_size"] == 4


@pytest.mark.parametrize("value", ["novalue", "=1", "a=" + "[" * 100_000])
def test_meta_that_makes_no_sense_is_refused(run: Run, model: Path, tmp_path: Path, value: str) -> None:
    target = tmp_path / "out.pth"
    result = run("convert", model, target, "--meta", value)
    assert (result.exit_code, target.exists()) == (2, False)
    assert len(result.stderr.splitlines()) == 2


def test_the_same_key_twice_is_refused(run: Run, model: Path, tmp_path: Path) -> None:
    result = run("convert", model, tmp_path / "out.pth", "--meta", "a=1", "--meta", "a=2")
    assert result.exit_code == 2
    assert "--meta sets the same key twice" in result.stderr
    result = run("convert", model, tmp_path / "out.onnx", "-O", "opset=17", "-O", "opset=18")
    assert result.exit_code == 2
    assert "-O sets the same option twice" in result.stderr


@pytest.mark.parametrize("value", ["key", "=value", ""])
def test_an_option_of_a_format_that_is_no_pair_is_refused(run: Run, model: Path, tmp_path: Path, value: str) -> None:
    result = run("convert", model, tmp_path / "out.pth", "-O", value)
    assert (result.exit_code, list(tmp_path.glob("out*"))) == (2, [])
    assert f"{value!r} is not of the form KEY=VALUE" in result.stderr


def test_a_misspelt_loss_gets_the_nearest(run: Run, model: Path, tmp_path: Path) -> None:
    result = run("convert", model, tmp_path / "out.pth", "--allow-loss", "opaqe")
    assert result.exit_code == 2
    assert "did you mean 'opaque'?" in result.stderr


def test_every_code_of_a_loss_is_taken() -> None:
    assert (*CODES, "all") == tuple(LOSSES)


def test_json_is_one_strict_document(run: Run, training: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    result = run("convert", training, target, "--json")
    document = strict(result.stdout)
    assert result.stderr == ""
    assert document.keys() == {"schema", "source", "target", "tensors", "nbytes", "losses", "findings", "digest"}
    assert document["nbytes"] == target.stat().st_size


def test_json_has_the_error_on_stdout_as_well(run: Run, hostile: Path, tmp_path: Path) -> None:
    result = run("convert", hostile, tmp_path / "out.pth", "--json")
    error = strict(result.stdout)["error"]
    assert isinstance(error, dict)
    assert error.keys() == {"code", "message", "path", "hint", "details"}
    assert (error["code"], error["path"]) == ("would-run-code", str(hostile))
    assert result.stderr.startswith("ckptconv: error: ")


def test_an_empty_path_is_refused(run: Run, model: Path) -> None:
    assert "the path is empty" in run("convert", model, "").stderr
    assert run("inspect", "").exit_code == 2


@pytest.mark.parametrize("arguments", [["-", "a.pth"], ["a.pth", "-"]])
def test_pipes_are_refused_by_name(run: Run, arguments: list[str]) -> None:
    result = run("convert", *arguments)
    assert result.exit_code == 2
    assert "'-' is not supported" in result.stderr


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A bare state_dict of a network of linear layers."""
    path = tmp_path / "raw.pth"
    torch.save(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).state_dict(), path)
    return path


def test_with_params_makes_a_metadata_checkpoint_of_a_raw_one(run: Run, raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "meta.pth"
    assert run("convert", raw, target, "--arch", "mlp", "--with-params").exit_code == 0
    loaded = torch.load(target, weights_only=True)
    state = loaded.pop("state_dict")
    assert loaded == {"input_size": 8, "hidden_layers": [6], "output_size": 3}
    assert list(state) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_without_arch_the_params_are_those_that_the_evidence_names(run: Run, raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "meta.safetensors"
    assert run("convert", raw, target, "--with-params").exit_code == 0
    with open_checkpoint(target) as checkpoint:
        assert checkpoint.metadata == {"input_size": 8, "hidden_layers": [6], "output_size": 3}


@pytest.mark.parametrize("how", [("x.tflite",), ("x", "--to", "tflite")])
def test_a_format_that_is_only_read_is_refused_as_that(run: Run, model: Path, tmp_path: Path, how: tuple[str]) -> None:
    result = run("convert", model, tmp_path / how[0], *how[1:])
    assert result.exit_code == 2
    assert "the format 'tflite' can be read but not written\nhint: " in result.stderr
    assert not (tmp_path / how[0]).exists()


def test_what_is_written_remembers_its_architecture_in_every_format(run: Run, raw: Path, tmp_path: Path) -> None:
    path = raw
    for name, options in (("a.pth", ["--arch", "mlp"]), ("b.safetensors", []), ("c.pth", [])):
        assert run("convert", path, tmp_path / name, *options).exit_code == 0
        path = tmp_path / name
        with open_checkpoint(path) as checkpoint:
            note: Any = checkpoint.notes.arch
            assert note["name"] == "mlp"
            assert note["params"]["hidden_layers"] == [6]
            assert "activation" not in note["params"], "nothing stated it"
        assert ", by the note in it" in run("validate", path).stdout
    assert list(torch.load(path, weights_only=True)) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_what_does_not_fit_is_refused_with_its_findings(run: Run, raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.pth"
    result = run("convert", raw, target, "--arch", "mlp", "--set", "output_size=4")
    assert (result.exit_code, result.stdout, target.exists()) == (2, "", False)
    error, *details, hint = result.stderr.splitlines()
    assert error == f"ckptconv: error: {raw}: it does not fit mlp: {len(details)} errors"
    assert all(line.startswith("  ") for line in details)
    assert hint == f"hint: ckptconv validate {raw} --arch mlp --set output_size=4 says more"
    document = strict(run("convert", raw, target, "--arch", "mlp", "--set", "output_size=4", "--json").stdout)
    assert document["error"]["code"] == "misfit"


@pytest.mark.parametrize(
    ("before", "mends"),
    [("module.", "--strip-prefix module. takes it off; "), ("", "--add-prefix module. puts it on; ")],
)
def test_a_prefix_that_does_not_fit_is_refused_with_the_option_that_mends_it(
    run: Run, tmp_path: Path, before: str, mends: str
) -> None:
    ours, theirs = tmp_path / "ours.pth", tmp_path / "theirs.pth"
    for path, prefix in ((ours, before), (theirs, "" if before else "module.")):
        torch.save({f"{prefix}{name}": torch.zeros(2) for name in ("a.weight", "a.bias", "b.weight")}, path)
    words = ["convert", ours, tmp_path / "out.pth", "--arch", theirs]
    hint = run(*words).stderr.splitlines()[-1]
    assert hint == f"hint: {mends}ckptconv validate {ours} --arch {theirs} says more"
    assert run(*words, *hint.split()[1:3]).exit_code == 0


def test_metadata_that_contradicts_the_tensors_is_refused_and_meta_mends(run: Run, raw: Path, tmp_path: Path) -> None:
    wrong, target = tmp_path / "wrong.pth", tmp_path / "out.pth"
    params = ["--meta", "hidden_layers=[6]", "--meta", "output_size=3"]
    assert run("convert", raw, wrong, "--meta", "input_size=9", *params).exit_code == 0
    assert "param-conflict: input_size" in run("convert", wrong, target, "--with-params").stderr
    assert run("convert", wrong, target, "--with-params", "--meta", "input_size=8").exit_code == 0
    assert torch.load(target, weights_only=True)["input_size"] == 8


def test_params_that_the_metadata_states_are_kept_with_their_types(run: Run, raw: Path, tmp_path: Path) -> None:
    with_tuple, target = tmp_path / "tuple.pth", tmp_path / "out.pth"
    torch.save({"hidden_layers": (6,), "epoch": 3, "state_dict": torch.load(raw, weights_only=True)}, with_tuple)
    assert run("convert", with_tuple, target, "--arch", "mlp", "--with-params").exit_code == 0
    loaded = torch.load(target, weights_only=True)
    assert {key: loaded[key] for key in loaded if key != "state_dict"} == {
        "hidden_layers": (6,), "epoch": 3, "input_size": 8, "output_size": 3,
    }  # fmt: skip


def test_strings_of_others_become_typed_params(run: Run, raw: Path, tmp_path: Path) -> None:
    strings, target = tmp_path / "strings.safetensors", tmp_path / "out.pth"
    save_file(torch.load(raw, weights_only=True), strings, {"input_size": "8", "hidden_layers": "[6]", "note": "7"})
    assert run("convert", strings, target, "--arch", "mlp", "--with-params").exit_code == 0
    loaded = torch.load(target, weights_only=True)
    assert (loaded["input_size"], loaded["hidden_layers"], loaded["note"]) == (8, [6], "7")


def test_bare_with_params_keeps_the_params_alone(run: Run, raw: Path, tmp_path: Path) -> None:
    epoch, target = tmp_path / "epoch.pth", tmp_path / "out.safetensors"
    assert run("convert", raw, epoch, "--meta", "epoch=3").exit_code == 0
    assert run("convert", epoch, target, "--bare", "--arch", "mlp", "--with-params").exit_code == 0
    with open_checkpoint(target) as checkpoint:
        assert checkpoint.metadata == {"input_size": 8, "hidden_layers": [6], "output_size": 3}
    assert run("convert", epoch, target, "--bare", "--arch", "mlp", "--force").exit_code == 0
    with open_checkpoint(target) as checkpoint:
        assert (checkpoint.metadata, checkpoint.notes.arch) == ({}, None)


def test_a_checkpoint_as_architecture_has_no_params_to_write(run: Run, raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.pth"
    assert run("convert", raw, target, "--arch", raw).exit_code == 0
    result = run("convert", raw, target, "--arch", raw, "--with-params", "--force")
    assert result.exit_code == 2
    assert "has no params to write" in result.stderr
    assert run("convert", raw, raw.with_name("b.pth"), "--dry-run", "--arch", "lenet").exit_code == 2


def test_shards_are_split_named_reported_and_read_as_a_folder(run: Run, model: Path, tmp_path: Path) -> None:
    result = run("convert", model, f"{tmp_path}/set/", "--shard-size", "48B")
    index = tmp_path / "set" / "model.safetensors.index.json"
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith(f"{model} → {index}: 2 tensors, ")
    assert "2 shards of up to 48 bytes" in result.stdout
    assert run("diff", model, tmp_path / "set").exit_code == 0
    assert strict(run("inspect", tmp_path / "set", "--json").stdout)["format"] == "safetensors-sharded"
    plan = run("convert", tmp_path / "set", tmp_path / "x.bin", "--shard-size", "48B", "--dry-run").stdout
    assert "x-00001-of-00002.bin" in plan
    parts = run("convert", model, tmp_path / "z.gguf", "--shard-size", "48B")
    assert parts.stdout.splitlines()[0].startswith(f"{model} → {tmp_path / 'z-00001-of-00002.gguf'}: 2 tensors, ")
    assert "2 files of up to 48 bytes of tensors, the first of which stands for all" in parts.stdout
    again = run("convert", model, tmp_path / "z.gguf", "--shard-size", "48B")
    assert (again.exit_code, "add --force" in again.stderr) == (2, True)
    wrong = run("convert", model, tmp_path / "y.safetensors", "--shard-size", "5 apples")
    assert (wrong.exit_code, wrong.stderr.splitlines()[0]) == (2, "ckptconv: error: '5 apples' is not a size")
