"""Running and comparing apart from one another: outputs that are saved, and compared later."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

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
    with pytest.raises(CorruptFileError, match="not saved outputs"):
        ckptconv.read_recording(tmp_path / "old.npz")
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    with pytest.raises(CorruptFileError, match="not saved outputs"):
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


def test_invalid_arrays_are_refused_by_what_is_wrong(tmp_path: Path, source: Path) -> None:
    """Each ended in an exception of numpy's, zipfile's or torch's."""
    rows = np.zeros((3, 16), np.float32)
    np.savez(tmp_path / "good.npz", x=rows)
    good = (tmp_path / "good.npz").read_bytes()
    flipped = bytearray(good)
    flipped[good.index(rows.tobytes())] ^= 1
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 16), }"
    huge = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    bad = {"empty": b"", "cut": good[:-10], "flipped": bytes(flipped), "text": b"hello"}
    for name, member in (("huge", huge), ("no array", b"abc"), ("deep", b"\x93NUMPY\x01\x00\x28\x23" + b"(" * 9000)):
        with zipfile.ZipFile(tmp_path / "made.npz", "w") as archive:
            archive.writestr("x.npy", member)
        bad[name] = (tmp_path / "made.npz").read_bytes()
    for data in bad.values():
        (tmp_path / "bad.npz").write_bytes(data)
        with pytest.raises(UsageError, match=r"is not an \.npz of arrays"):
            ckptconv.verify(source, source, arch="mlp", arrays=tmp_path / "bad.npz")
        with pytest.raises(CorruptFileError, match="not saved outputs"):
            ckptconv.read_recording(tmp_path / "bad.npz")
    with (tmp_path / "one.npy").open("wb") as file:
        np.save(file, rows)
    with pytest.raises(UsageError, match=r"is not an \.npz of arrays"):
        ckptconv.verify(source, source, arch="mlp", arrays=tmp_path / "one.npy")
    np.savez(tmp_path / "words.npz", x=np.array(["a"]), y=np.array(["b"]))
    with pytest.raises(UsageError, match=r"'x' in .* is text"):
        ckptconv.verify(source, source, arch="mlp", arrays=tmp_path / "words.npz")
    np.savez(tmp_path / "two.npz", x=rows, y=rows)
    with pytest.raises(UsageError, match="holds 2 arrays for 1 inputs"):
        ckptconv.verify(source, source, arch="mlp", arrays=tmp_path / "two.npz")


@pytest.mark.parametrize("role", ["input", "limit", "reference"])
def test_a_recording_with_text_for_numbers_is_refused(tmp_path: Path, source: Path, role: str) -> None:
    ckptconv.save_outputs(source, tmp_path / "out.npz", arch="mlp")
    with np.load(tmp_path / "out.npz") as file:
        arrays: dict[str, Any] = {
            name: np.full(file[name].shape, "x") if f"/{role}/" in name else file[name] for name in file.files
        }
    np.savez(tmp_path / "out.npz", **arrays)
    with pytest.raises(CorruptFileError, match=rf"/{role}/.* is text"):
        ckptconv.verify_outputs(source, tmp_path / "out.npz", arch="mlp")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arrays of a recording's file, which is read when numpy has written them again."""
    folder = tmp_path_factory.mktemp("recorded")
    torch.save(Network(16, 5, [12, 12]).state_dict(), folder / "a.pth")
    ckptconv.save_outputs(folder / "a.pth", folder / "out.npz", arch="mlp")
    with np.load(folder / "out.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(folder / "again.npz", **arrays)
    assert ckptconv.read_recording(folder / "again.npz").unit == "float32"
    return arrays


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, 5) for key in ("label", "runtime", "device", "machine", "reason")]
    + [("unit", "float8"), ("traced", 9), ("weights", 5), ("weights", {"w": 5})]
    + [("weights", {"w": row}) for row in ([5, [1], "00"], ["F32", ["x"], "00"], ["F32", [1], 5], ["F32", [1]])],
)
def test_a_recording_that_says_something_else_of_itself_is_refused(
    tmp_path: Path, recorded: dict[str, Any], key: str, value: object
) -> None:
    about = {**json.loads(str(recorded["about"])), key: value}
    np.savez(tmp_path / "out.npz", **{**recorded, "about": np.array(json.dumps(about))})
    with pytest.raises(CorruptFileError, match="not saved outputs"):
        ckptconv.read_recording(tmp_path / "out.npz")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_arrays_of_any_width_and_byte_order_go_in(tmp_path: Path, source: Path, dtype: str) -> None:
    np.savez(tmp_path / "in.npz", anything=np.asfortranarray(np.ones((3, 16), dtype)))
    made = ckptconv.run(source, arch="mlp", arrays=tmp_path / "in.npz")
    np.savez(tmp_path / "plain.npz", x=np.ones((3, 16), np.float32))
    plain = ckptconv.run(source, arch="mlp", arrays=tmp_path / "plain.npz")
    assert np.array_equal(made.batches[0].outputs["output"], plain.batches[0].outputs["output"])


def test_a_recording_of_classes_and_their_probabilities_reads_back(tmp_path: Path) -> None:
    """As scikit-learn's classifiers are exported: labels that are texts, and a sequence of maps."""
    values = helper.make_tensor("values", TensorProto.FLOAT, (4, 2), [0.25] * 8)
    nodes = [
        helper.make_node("MatMul", ["x", "values"], ["scores"]),
        helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"]),
        helper.make_node("ArgMax", ["scores"], ["index"], axis=1, keepdims=0),
        helper.make_node(
            "LabelEncoder", ["index"], ["label"], domain="ai.onnx.ml", keys_int64s=[0, 1], values_strings=["no", "yes"]
        ),
    ]
    number = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    maps = helper.make_value_info("maps", helper.make_sequence_type_proto(number))
    label = helper.make_tensor_value_info("label", TensorProto.STRING, ["n"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(nodes, "classes", [x], [label, maps], [values])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), tmp_path / "a.onnx")
    made = ckptconv.run(tmp_path / "a.onnx")
    assert made.batches[1].outputs["maps"].shape == (3, 2)
    assert made.batches[1].outputs["label"].tolist() == ["no"] * 3
    (tmp_path / "out.npz").write_bytes(made.to_bytes())
    assert ckptconv.verify_outputs(tmp_path / "a.onnx", tmp_path / "out.npz").equivalent
    read = ckptconv.read_recording(tmp_path / "out.npz")
    read.batches[1].outputs["label"][1] = "yes"
    found = ckptconv.compare(made, read)
    assert {output.name: output.ok for output in found.outputs} == {"label": False, "maps": True}
