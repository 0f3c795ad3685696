"""``convert --verify``: the target gets its name only if it computes what the source does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.errors import NotEquivalentError
from ckptconv.formats.onnx import weights as onnx_weights
from ckptconv.io.stream import Streamer
from tests.cli.conftest import strict

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Run

FIXTURES = Path(__file__).parents[2] / "fixtures"
DIGITS = FIXTURES / "digits-metadata.pth"


class Net(nn.Module):
    """One that no recipe describes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(30, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(torch.sin(self.embed(ids)).mean(1))


@pytest.mark.parametrize("name", ["b.safetensors", "b.pth", "b.onnx"])
def test_a_conversion_that_computes_the_same_is_written(run: Run, tmp_path: Path, name: str) -> None:
    done = run("convert", DIGITS, tmp_path / name, "--verify", "--arch", "mlp")
    assert done.exit_code == 0, done.output
    assert "equivalent: 36 samples in 3 batches on cpu, torch" in done.output
    assert ckptconv.diff(DIGITS, tmp_path / name).equal
    assert os.listdir(tmp_path) == [name]
    document = strict(run("convert", DIGITS, tmp_path / name, "--verify", "--arch", "mlp", "--force", "--json").output)
    assert document["verification"]["equivalent"] is True
    assert document["verification"]["second"] == str(tmp_path / name)


def test_data_beside_the_graph_is_verified_with_it(run: Run, tmp_path: Path) -> None:
    for data in ("weights.data", "inner/weights.safetensors", "whole.safetensors"):
        (tmp_path / data).parent.mkdir(exist_ok=True)
        graph = tmp_path / "b.onnx"
        line = ["convert", DIGITS, graph, "--verify", "--arch", "mlp", "-O", f"external-data={data}", "--force"]
        done = run(*line)
        assert done.exit_code == 0, done.output
        assert ckptconv.verify(DIGITS, graph, arch="mlp").equivalent
    ckptconv.convert(DIGITS, tmp_path / "source.safetensors")
    line = ["convert", tmp_path / "source.safetensors", tmp_path / "c.onnx", "--arch", "mlp", "--verify"]
    assert run(*line, "-O", "external-data=source.safetensors").exit_code == 0
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_python_and_graphs_are_verified_too(run: Run, tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "a.pth")
    arch = ["--arch", f"{__file__}:Net", "--verify"]
    ids = ["--input", "ids:I64[N,T]<30"]
    assert run("convert", tmp_path / "a.pth", tmp_path / "a.onnx", *arch, *ids).exit_code == 0
    assert run("convert", tmp_path / "a.onnx", tmp_path / "b.safetensors", *arch, *ids).exit_code == 0
    assert run("convert", tmp_path / "b.safetensors", tmp_path / "c.pth", *arch).exit_code == 0
    assert ckptconv.diff(tmp_path / "a.pth", tmp_path / "c.pth").equal


def test_what_edits_change_is_changed_on_purpose(run: Run, tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in torch.load(DIGITS, weights_only=True)["state_dict"].items()}
    torch.save(state, tmp_path / "a.pth")
    line = ["convert", tmp_path / "a.pth", tmp_path / "b.onnx", "--arch", "mlp", "--verify"]
    assert run(*line, "--strip-prefix", "module.", "--dtype", "BF16").exit_code == 0


def scaled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Every tensor of the second layer is written 1 % too large: what a wrong writer would do."""
    before = Streamer.run

    def run(self: Streamer, jobs: list[object]) -> object:
        done = before(self, jobs)  # type: ignore[arg-type]
        for job in jobs:
            if job.name == "hidden_layers.1.weight":  # type: ignore[attr-defined]
                values = job.tensor.numpy() * 1.01  # type: ignore[attr-defined]
                self._target.write_at(job.offset, values.tobytes())  # type: ignore[attr-defined]
        return done

    monkeypatch.setattr(Streamer, "run", run)
    return monkeypatch.undo


@pytest.mark.parametrize("name", ["b.safetensors", "b.onnx"])
def test_what_does_not_compute_the_same_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert vars(onnx_weights)["Streamer"] is Streamer
    old = tmp_path / name
    old.write_bytes(b"the old file")
    scaled(monkeypatch)
    bad = run("convert", DIGITS, old, "--arch", "mlp", "--verify", "--force")
    assert bad.exit_code == 1, bad.output
    assert "not equivalent: 36 samples" in bad.output
    assert "layer hidden_layers.1 is the first whose outputs differ" in bad.output
    assert bad.output.endswith("nothing was written\n")
    document = strict(run("convert", DIGITS, old, "--arch", "mlp", "--verify", "--force", "--json").stdout)
    assert document["verification"]["equivalent"] is False
    with pytest.raises(NotEquivalentError, match="was not written"):
        ckptconv.convert(DIGITS, old, arch="mlp", verify=True, force=True)
    assert old.read_bytes() == b"the old file"
    assert os.listdir(tmp_path) == [name]


def test_files_beside_stay_as_they_were_where_it_does_not_compute_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    shutil.copy(DIGITS, tmp_path / "a" / "model.pth")
    (tmp_path / "a" / "vocab.txt").write_text("new")
    (tmp_path / "b" / "vocab.txt").write_text("old")
    scaled(monkeypatch)
    line = ["convert", tmp_path / "a" / "model.pth", f"{tmp_path}/b/", "--arch", "mlp", "--verify", "--force"]
    assert run(*line, "--with-files").exit_code == 1
    assert os.listdir(tmp_path / "b") == ["vocab.txt"]
    assert (tmp_path / "b" / "vocab.txt").read_text() == "old"


def test_without_anything_to_run_nothing_is_written(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    done = run("convert", tmp_path / "a.pth", tmp_path / "b.safetensors", "--verify")
    assert done.exit_code == 2
    assert "what the network computes has to be known" in done.output
    assert (
        f"hint: ckptconv convert {tmp_path / 'a.pth'} {tmp_path / 'b.safetensors'} --verify --arch NAME" in done.output
    )
    assert os.listdir(tmp_path) == ["a.pth"]
    done = run("verify", tmp_path / "a.pth", "x.onnx")
    assert done.exit_code == 2
    torch.save(Net().state_dict(), tmp_path / "n.pth")
    run("convert", tmp_path / "n.pth", tmp_path / "n.onnx", "--arch", f"{__file__}:Net", "--input", "ids:I64[N,T]<30")
    done = run("convert", tmp_path / "n.onnx", tmp_path / "m.pth", "--verify", "--input", "ids:I64[N,T]<30")
    assert done.exit_code == 2, done.output
    assert not (tmp_path / "m.pth").exists()
