"""TensorFlow's checkpoints: what it reads from them is what is read here, and nothing else of a damaged one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import (
    CkptconvError,
    CorruptFileError,
    DamagedTensorError,
    FileAccessError,
    LimitError,
    UnsupportedError,
    UsageError,
)
from tests.support.protobuf_files import field
from tests.support.tensorflow_files import HEADER, entry, rows, summed, table, text

if TYPE_CHECKING:
    from collections.abc import Mapping

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"
CHECKPOINTS = sorted(path.stem for path in OTHERS.glob("*.index"))


def read_by_tensorflow(name: str) -> dict[str, np.ndarray]:
    with np.load(OTHERS / "tensorflow.npz") as arrays:
        return {key.partition("|")[2]: arrays[key] for key in arrays.files if key.startswith(f"{name}|")}


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if "keras" not in name and "exported" not in name])
def test_every_tensor_is_what_tensorflow_reads(name: str) -> None:
    expected = read_by_tensorflow(name)
    with ckptconv.open(OTHERS / f"{name}.index") as checkpoint:
        assert checkpoint.format == "tensorflow"
        assert checkpoint.all_tensors.keys() == expected.keys()
        for key, tensor in checkpoint.all_tensors.items():
            assert tensor.info.shape == expected[key].shape
            assert bytes(tensor.read()) == expected[key].tobytes()


def test_element_types_are_what_they_are_called() -> None:
    with ckptconv.open(OTHERS / "tensorflow-types.ckpt.index") as checkpoint:
        found = {name.removeprefix("types/"): tensor for name, tensor in checkpoint.items() if "types/" in name}
        assert len(found) == 22
        for name, tensor in found.items():
            plain = name.removeprefix("q")  # an integer whose scale is elsewhere
            assert tensor.to_torch().dtype is getattr(torch, plain)


def test_texts_are_metadata() -> None:
    with ckptconv.open(OTHERS / "tensorflow-types.ckpt.index") as checkpoint:
        assert checkpoint.metadata["texts/scalar"] == b"one\0two"
        assert checkpoint.metadata["texts/row"] == [b"a", b"", b"x" * 300]
        assert checkpoint.metadata["texts/table"] == [[b"a", b"b"], [b"c", b"d"]]
        assert {finding.code for finding in checkpoint.findings} == {"read-as"}
        assert len(checkpoint.findings) == 5


KERAS = {
    "model/layer_with_weights-0/kernel": "dense/kernel",
    "model/layer_with_weights-0/bias": "dense/bias",
    "model/layer_with_weights-1/gamma": "batch_normalization/gamma",
    "model/layer_with_weights-1/beta": "batch_normalization/beta",
    "model/layer_with_weights-1/moving_mean": "batch_normalization/moving_mean",
    "model/layer_with_weights-1/moving_variance": "batch_normalization/moving_variance",
    "model/layer_with_weights-2/kernel": "dense_1/kernel",
    "model/layer_with_weights-2/bias": "dense_1/bias",
}
SLOTS = [f"Adam/{moment}/{name}" for name in KERAS.values() for moment in "mv" if "moving" not in name]


def test_variables_have_their_own_names_and_an_optimizers_are_extras() -> None:
    expected = read_by_tensorflow("tensorflow-keras.ckpt")
    with ckptconv.open(OTHERS / "tensorflow-keras.ckpt.index") as checkpoint:
        assert checkpoint.keys() == set(KERAS.values())
        for key, name in KERAS.items():
            assert bytes(checkpoint[name].read()) == expected[f"{key}/.ATTRIBUTES/VARIABLE_VALUE"].tobytes()
        assert checkpoint.extras.keys() == {"iteration", "learning_rate", *SLOTS}
        assert len(checkpoint.all_tensors) == len(expected)
        assert isinstance(checkpoint.metadata["_CHECKPOINTABLE_OBJECT_GRAPH"], bytes)


def test_variables_that_keras_exports_twice_are_read_once() -> None:
    with (
        np.load(OTHERS / "tensorflow-exported.npz") as expected,
        ckptconv.open(OTHERS / "tensorflow-exported.ckpt.index") as checkpoint,
    ):
        assert checkpoint.keys() == set(expected.files)
        for name, tensor in checkpoint.items():
            assert tensor.numpy().tolist() == expected[name].tolist()
        assert not checkpoint.extras
        (finding,) = checkpoint.findings
        assert finding.message == "10 variables are stored twice, as variables/… and _all_variables/…, and read once"


def test_a_copy_is_of_the_name_type_shape_and_checksum(tmp_path: Path) -> None:
    listed = {"variables/0": "a", "variables/1": "b", "variables/2": "c", "variables/3": "d"}
    again = {"_all_variables/0": "a", "_all_variables/1": "b", "_all_variables/2": "other", "_all_variables/3": "d"}
    zeros, ones = bytes(8), bytes.fromhex("0000803f0000803f")
    like = {key: entry(1, (2,), 0, 8, more=summed(zeros)) for key in (*listed, *again)}
    like["_all_variables/1"] = entry(1, (2,), 8, 8, more=summed(ones))
    like["_all_variables/3"] = entry(3, (2,), 0, 8, more=summed(zeros))
    nodes = (field(2, field(2, n.encode()) + field(3, k.encode())) for k, n in (listed | again).items())
    graph, sums = text(b"".join(field(1, node) for node in nodes))
    like["_CHECKPOINTABLE_OBJECT_GRAPH"] = entry(7, (), 16, len(graph), more=sums)
    entries = {b"": HEADER, **{key.encode(): like[key] for key in sorted(like)}}
    with ckptconv.open(made(tmp_path, entries, zeros + ones + graph)) as checkpoint:
        assert checkpoint.keys() == {
            "a", "variables/1", "_all_variables/1", "c", "other", "variables/3", "_all_variables/3"
        }  # fmt: skip


def test_a_keras_model_becomes_torchs(tmp_path: Path) -> None:
    edits = ckptconv.Edits(names=[NameRule("translate", "keras")])
    ckptconv.convert(OTHERS / "tensorflow-keras.ckpt.index", tmp_path / "a.pth", bare=True, edits=edits)
    network = torch.nn.ModuleDict(
        {
            "dense": torch.nn.Linear(4, 3),
            "batch_normalization": torch.nn.BatchNorm1d(3),
            "dense_1": torch.nn.Linear(3, 2),
        }
    )
    network.load_state_dict(torch.load(tmp_path / "a.pth"))
    kernel = read_by_tensorflow("tensorflow-keras.ckpt")["model/layer_with_weights-2/kernel/.ATTRIBUTES/VARIABLE_VALUE"]
    assert network["dense_1"].get_parameter("weight").detach().numpy().T.tolist() == kernel.tolist()


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("target", ["a.safetensors", "a.pth", "a.npz"])
def test_it_is_the_same_in_any_other_format(name: str, target: str, tmp_path: Path) -> None:
    ckptconv.convert(OTHERS / f"{name}.index", tmp_path / target)
    assert ckptconv.diff(OTHERS / f"{name}.index", tmp_path / target).equal


def test_opening_it_reads_no_tensor() -> None:
    with ckptconv.open(OTHERS / "tensorflow-slices.ckpt.index") as checkpoint:
        file: Any = getattr(checkpoint["v"].span, "file", None)
        assert file.bytes_read == 0


# -- Which file


def copied(name: str, folder: Path) -> Path:
    for path in OTHERS.glob(f"{name}.*"):
        shutil.copy(path, folder)
    return folder / f"{name}.index"


def test_a_folder_is_its_one_checkpoint_or_the_latest(tmp_path: Path) -> None:
    copied("tensorflow-slices.ckpt", tmp_path)
    with ckptconv.open(tmp_path) as checkpoint:
        assert list(checkpoint) == ["v", "w"]
    copied("tensorflow-shards.ckpt", tmp_path)
    with pytest.raises(UsageError, match="holds 2 checkpoints") as error:
        ckptconv.open(tmp_path)
    assert str(tmp_path / "tensorflow-shards.ckpt.index") in str(error.value.hint)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/tensorflow-slices.ckpt"\n')
    with ckptconv.open(tmp_path) as checkpoint:
        assert list(checkpoint) == ["v", "w"]


def test_a_prefix_is_not_a_file(tmp_path: Path) -> None:
    index = copied("tensorflow-slices.ckpt", tmp_path)
    with pytest.raises(FileAccessError) as error:
        ckptconv.open(index.with_suffix(""))
    assert str(index) in str(error.value.hint)


def test_a_saved_model_without_variables_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    (tmp_path / "variables").mkdir()
    with pytest.raises(CkptconvError, match="TensorFlow SavedModel without an"):
        ckptconv.open(tmp_path)


def test_data_that_is_missing_or_cut_short(tmp_path: Path) -> None:
    index = copied("tensorflow-shards.ckpt", tmp_path)
    data = tmp_path / "tensorflow-shards.ckpt.data-00001-of-00003"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match="cut short"):
        ckptconv.open(index)
    data.unlink()
    with pytest.raises(FileAccessError, match="does not open"):
        ckptconv.open(index)


@pytest.mark.parametrize("name", ["tensorflow-shards.ckpt", "tensorflow-slices.ckpt", "tensorflow-types.ckpt"])
def test_a_flipped_bit_of_the_data_is_reported_by_the_tensors_name(name: str, tmp_path: Path) -> None:
    index = copied(name, tmp_path)
    expected = reading(index)
    assert isinstance(expected, tuple)
    damaged = set()
    for data in sorted(tmp_path.glob("*.data-*")):
        whole = data.read_bytes()
        for i in range(0, len(whole), max(1, len(whole) // 40)):
            data.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
            with pytest.raises(CorruptFileError) as caught:
                ckptconv.convert(index, tmp_path / "out.safetensors")
            if isinstance(caught.value, DamagedTensorError):
                damaged.add(caught.value.name)
                assert caught.value.path == data
        data.write_bytes(whole)
    assert damaged
    assert damaged <= expected[0].keys()
    assert not (tmp_path / "out.safetensors").exists()


# -- The layout, written out by hand


def made(tmp_path: Path, entries: Mapping[bytes, bytes], data: bytes, *, compression: int = 0) -> Path:
    (tmp_path / "m.index").write_bytes(table(rows(entries), compression))
    (tmp_path / "m.data-00000-of-00001").write_bytes(data)
    return tmp_path / "m.index"


def test_a_checkpoint_spelled_out_by_hand(tmp_path: Path) -> None:
    one_two = bytes.fromhex("0000803f00000040")
    path = made(tmp_path, {b"": HEADER, b"a/w": entry(1, (2,), 3, 8)}, b"xyz" + one_two)
    with ckptconv.open(path) as checkpoint:
        assert checkpoint["a/w"].numpy().tolist() == [1.0, 2.0]
        assert checkpoint["a/w"].span is not None


def test_big_endian_numbers(tmp_path: Path) -> None:
    header = HEADER + field(2, 1)
    one_two = bytes.fromhex("3f80000040000000")
    path = made(tmp_path, {b"": header, b"w": entry(1, (2,), 0, 8, more=summed(one_two))}, one_two)
    with ckptconv.open(path) as checkpoint:
        assert checkpoint["w"].numpy().tolist() == [1.0, 2.0]
    ckptconv.convert(path, tmp_path / "out.safetensors")
    made(tmp_path, {b"": header, b"w": entry(1, (2,), 0, 8, more=summed(one_two[::-1]))}, one_two)
    with pytest.raises(DamagedTensorError, match="'w' is damaged"):
        ckptconv.convert(path, tmp_path / "out.safetensors", force=True)


F32 = entry(1, (2,), 0, 8)


def test_slots_of_the_first_interface_are_no_part_of_the_model(tmp_path: Path) -> None:
    names = ["beta1_power", "global_step", "w", "w/Adam", "w/Adam_1", "w/other"]
    entries = {name.encode(): entry(1, (2, 1) if name == "w/other" else (2,), 0, 8) for name in names}
    with ckptconv.open(made(tmp_path, {b"": HEADER, **entries}, bytes(8))) as checkpoint:
        assert (list(checkpoint), list(checkpoint.extras)) == (["w", "w/other"], names[:2] + names[3:5])


@pytest.mark.parametrize(
    ("entries", "error", "words"),
    [
        ({b"a": b""}, UnsupportedError, "not a TensorFlow checkpoint"),
        ({b"": field(1, 1) + field(3, field(1, 9) + field(2, 9))}, UnsupportedError, "version 9"),
        ({b"": field(1, 0)}, UnsupportedError, "0 files"),
        ({b"": HEADER + field(2, 2), b"w": F32}, UnsupportedError, "byte order"),
        ({b"": HEADER, b"w": entry(29, (2,), 0, 2)}, UnsupportedError, "int4"),
        ({b"": HEADER, b"w": entry(20, (), 0, 2)}, UnsupportedError, "a resource"),
        ({b"": HEADER, b"w": entry(77, (), 0, 2)}, UnsupportedError, "unknown type, 77"),
        ({b"": HEADER, b"w": entry(1, (3,), 0, 8)}, CorruptFileError, "ask for 12"),
        ({b"": HEADER, b"w": entry(1, (2,), 1, 8)}, CorruptFileError, "cut short"),
        ({b"": HEADER, b"w": entry(1, (2,), 0, 8, shard=1)}, CorruptFileError, "the file 1 of 1"),
        ({b"": HEADER, b"w": entry(1, ((1 << 64) - 1,), 0, 8)}, CorruptFileError, "negative"),
        ({b"": HEADER, b"w": entry(1, (1 << 62, 1 << 62), 0, 8)}, CorruptFileError, "more bytes than a file"),
        ({b"": HEADER, b"w": entry(1, (1,) * 65, 0, 4)}, LimitError, "65 dimensions"),
        ({b"": HEADER, b"\xff": F32}, CorruptFileError, "not UTF-8"),
        ({b"": HEADER, b"b": F32, b"a": F32}, CorruptFileError, "do not rise"),
        ({b"": HEADER, b"w": entry(7, (1 << 40, 0), 0, 4, more=summed(b"\1" * 4))}, None, ""),
        ({b"": HEADER, b"w": entry(7, (1 << 40,), 0, 8)}, CorruptFileError, "more texts than bytes"),
        ({b"": HEADER, b"w": entry(7, (1,) * 17, 0, 8)}, LimitError, "17 dimensions of texts"),
        ({b"": HEADER, b"w": entry(7, (), 0, 8)}, CorruptFileError, "its texts ask for"),
        ({b"": HEADER, b"w": entry(1, (2,), 0, 0, more=field(7, field(1, b"")))}, CorruptFileError, "is missing"),
        ({b"": HEADER, b"w": b"\x0b"}, CorruptFileError, "wire type 3"),
        ({b"": HEADER, b"w": b"\x12\x05\x01"}, CorruptFileError, "reaches past the end of its message"),
        ({b"": HEADER, b"w": b"\xff" * 11}, CorruptFileError, "64 bits"),
    ],
    ids=range(23),
)
def test_what_cannot_be_is_refused_with_the_reason(
    entries: dict[bytes, bytes], error: type[CkptconvError] | None, words: str, tmp_path: Path
) -> None:
    path = made(tmp_path, entries, b"\1" * 8)
    if error is None:
        ckptconv.open(path).close()
        return
    with pytest.raises(error, match=words) as caught:
        ckptconv.open(path)
    assert caught.value.hint


def test_a_compressed_index_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="compressed"):
        ckptconv.open(made(tmp_path, {b"": HEADER}, b"", compression=1))


def reading(path: Path) -> object:
    with ckptconv.open(path) as checkpoint:
        tensors = {name: (tensor.info, bytes(tensor.read())) for name, tensor in checkpoint.all_tensors.items()}
        return tensors, dict(checkpoint.metadata)


@pytest.mark.parametrize("name", ["tensorflow-slices.ckpt", "tensorflow-types.ckpt"])
def test_a_damaged_index_is_an_error_or_says_the_same(name: str, tmp_path: Path) -> None:
    path = copied(name, tmp_path)
    whole, expected = path.read_bytes(), reading(path)
    damaged = [whole[:end] for end in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    survived = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            assert repr(reading(path)) == repr(expected)
            survived += 1
        except CkptconvError as error:
            assert error.hint
    assert survived < 48 + 13, "all but the footer, and the block of metadata that nobody reads, has a checksum"
