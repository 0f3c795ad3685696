"""A source that is not what its recorded digest says: ``convert`` goes on, and says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.conftest import strict

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.fixture
def recorded(run: Run, model: Path, tmp_path: Path) -> Path:
    """A safetensors file that records a digest."""
    path = tmp_path / "recorded.safetensors"
    assert run("convert", model, path).exit_code == 0
    return path


def changed(path: Path) -> Path:
    """Another tool multiplies a weight, and hands the metadata on as it was."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({**tensors, "fc.weight": 2 * tensors["fc.weight"]}, path, metadata)
    return path


@pytest.mark.parametrize("name", ["b.safetensors", "b.npz", "b.gguf"])
def test_a_digest_that_holds_is_renewed_in_silence(run: Run, recorded: Path, tmp_path: Path, name: str) -> None:
    document = strict(run("convert", recorded, tmp_path / name, "--json").stdout)
    assert document["digest"]
    assert "digest" not in [finding["code"] for finding in document["findings"]]


@pytest.mark.parametrize("name", ["b.safetensors", "b.npz", "b.gguf"])
def test_one_that_does_not_is_reported_with_both(run: Run, recorded: Path, tmp_path: Path, name: str) -> None:
    before = strict(run("inspect", recorded, "--digest", "--json").stdout)["digest"]
    done = run("convert", changed(recorded), tmp_path / name, "--json")
    assert done.exit_code == 0
    document = strict(done.stdout)
    (told,) = [finding for finding in document["findings"] if finding["code"] == "digest"]
    assert (told["severity"], told["expected"], told["found"]) == ("warning", before, document["digest"])
    assert run("inspect", tmp_path / name, "--digest").exit_code == 0


def test_the_text_has_it_in_one_line(run: Run, recorded: Path, tmp_path: Path) -> None:
    done = run("convert", changed(recorded), tmp_path / "b.safetensors")
    assert done.exit_code == 0
    (line,) = [line for line in done.stdout.splitlines() if "digest says" in line]
    assert line.startswith("warning: the source is not what its recorded digest says: ")


@pytest.mark.parametrize("more", [["--meta", "epoch=3"], ["--bare"], ["--rename", "^fc=linear"], ["--dtype", "F16"]])
def test_nothing_is_reported_of_what_is_changed_on_the_way(
    run: Run, recorded: Path, tmp_path: Path, more: list[str]
) -> None:
    done = run("convert", recorded, tmp_path / "b.safetensors", *more)
    assert (done.exit_code, "digest says" in done.stdout) == (0, False)
