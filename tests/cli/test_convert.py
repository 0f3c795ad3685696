"""``ckptconv convert``: what it writes, says and refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from ckptconv import open as open_checkpoint
from ckptconv.cli.convert import LOSSES
from ckptconv.formats.preflight import CODES

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


def test_tensors_that_are_carried_along_are_told(run: Run, training: Path, tmp_path: Path) -> None:
    result = run("convert", training, tmp_path / "out.safetensors")
    assert "info: 1 tensors outside of the state_dict are carried along; --bare leaves them out" in result.stdout


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


def test_a_misspelt_loss_gets_the_nearest(run: Run, model: Path, tmp_path: Path) -> None:
    result = run("convert", model, tmp_path / "out.pth", "--allow-loss", "opaqe")
    assert result.exit_code == 2
    assert "did you mean 'opaque'?" in result.stderr


def test_every_code_of_a_loss_is_taken() -> None:
    assert (*CODES, "all") == LOSSES


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
