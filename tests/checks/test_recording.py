"""Running and comparing apart from one another: outputs that are saved, and compared later."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.errors import CorruptFileError, FileAccessError, TargetExistsError, UnsupportedError, UsageError
from fixtures.network import Network

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(Network(16, 5, [12, 12]).state_dict(), tmp_path / "a.pth")
    return tmp_path / "a.pth"


def changed(source: Path, name: str) -> Path:
    state = torch.load(source, weights_only=True)
    state[name][0] += 0.5
    torch.save(state, source.with_name("b.pth"))
    return source.with_name("b.pth")


def test_saved_outputs_are_compared_later_as_both_together_are(tmp_path: Path, source: Path) -> None:
    graph, saved = tmp_path / "a.onnx", tmp_path / "out.npz"
    ckptconv.convert(source, graph, arch="mlp")
    kept = ckptconv.save_outputs(source, saved, arch="mlp", seed=3, samples=7)
    assert kept.runs == [(1, 16), (3, 16), (7, 16)]
    apart = ckptconv.verify_outputs(graph, saved, arch="mlp")
    together = ckptconv.verify(source, graph, arch="mlp", seed=3, samples=7)
    assert apart.equivalent
    assert apart.outputs == together.outputs
    assert (apart.reason, apart.runtimes) == (together.reason, together.runtimes)
    wrong = ckptconv.verify_outputs(changed(source, "hidden_layers.1.weight"), saved, arch="mlp")
    assert not wrong.equivalent
    assert [(f.code, f.where) for f in wrong.findings if f.severity == "error"] == [
        ("weights-differ", "hidden_layers.1.weight"), ("first-difference", "hidden_layers.1")
    ]  # fmt: skip


def test_the_same_weights_have_to_give_the_same_bits_later_too(tmp_path: Path, source: Path) -> None:
    ckptconv.convert(source, tmp_path / "a.safetensors")
    ckptconv.save_outputs(source, tmp_path / "out.npz", arch="mlp")
    result = ckptconv.verify_outputs(tmp_path / "a.safetensors", tmp_path / "out.npz", arch="mlp")
    assert result.equivalent
    assert "bits have to be equal" in result.reason
    recording = ckptconv.read_recording(tmp_path / "out.npz")
    elsewhere = ckptconv.compare(replace(recording, machine="another"), recording)
    assert "standard deviations" in elsewhere.reason
    assert (elsewhere.outputs[0].max_abs, result.outputs[0].bound) == (0, 0)
    assert elsewhere.outputs[0].bound > 0
    assert ckptconv.compare(recording, recording, atol=1e-9).reason.startswith("|a - b| <= 1e-09")


def test_a_recording_reads_back_as_it_was(tmp_path: Path, source: Path) -> None:
    made = ckptconv.run(source, arch="mlp")
    (tmp_path / "out.npz").write_bytes(made.to_bytes())
    read = ckptconv.read_recording(tmp_path / "out.npz")
    for batch, other in zip(made.batches, read.batches, strict=True):
        for role in ("inputs", "outputs", "reference", "limits"):
            ours, theirs = getattr(batch, role), getattr(other, role)
            assert list(ours) == list(theirs) != []
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert (read.weights, read.seed, read.machine, read.traced) == (made.weights, 0, made.machine, 1)
    assert list(read.layers) == list(made.layers)
    assert "hidden_layers.0#1" in read.layer_limits
    assert made.to_bytes() == read.to_bytes()
    assert ckptconv.run(source, arch="mlp").to_bytes() == made.to_bytes()


def test_what_does_not_correspond_is_refused(tmp_path: Path, source: Path) -> None:
    one, other = ckptconv.run(source, arch="mlp", seed=1), ckptconv.run(source, arch="mlp", seed=2)
    with pytest.raises(UsageError, match="different inputs"):
        ckptconv.compare(one, other)
    with pytest.raises(FileAccessError, match="no such file"):
        ckptconv.verify_outputs(source, tmp_path / "none.npz", arch="mlp")
    (tmp_path / "old.npz").write_bytes(b"x")
    with pytest.raises(CorruptFileError, match="no saved outputs"):
        ckptconv.read_recording(tmp_path / "old.npz")
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    with pytest.raises(CorruptFileError, match="no saved outputs"):
        ckptconv.read_recording(tmp_path / "x.npz")
    np.savez(tmp_path / "new.npz", about=np.array('{"version": 2}'))
    with pytest.raises(UnsupportedError, match="version 2"):
        ckptconv.read_recording(tmp_path / "new.npz")
    with pytest.raises(TargetExistsError):
        ckptconv.save_outputs(source, tmp_path / "new.npz", arch="mlp")
    ckptconv.save_outputs(source, tmp_path / "new.npz", arch="mlp", force=True)
    assert ckptconv.verify_outputs(source, tmp_path / "new.npz", arch="mlp").equivalent
    data = (tmp_path / "new.npz").read_bytes()
    for cut in range(0, len(data), 997):
        (tmp_path / "cut.npz").write_bytes(data[:cut])
        with pytest.raises(CorruptFileError):
            ckptconv.read_recording(tmp_path / "cut.npz")
