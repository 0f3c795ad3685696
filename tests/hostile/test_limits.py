"""Each limit of the table in README.md beside this file: what is at it is read, what is past it is refused by name."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import ckptconv
from ckptconv.core import names
from ckptconv.errors import CkptconvError, LimitError
from ckptconv.formats.caffe import read as caffe
from ckptconv.formats.flax import arrays as flax
from ckptconv.formats.flax import cursor as msgpack_cursor
from ckptconv.formats.flax import msgpack
from ckptconv.formats.gguf import cursor as gguf
from ckptconv.formats.hdf5 import tree
from ckptconv.formats.hdf5.datasets import chunk_index, chunks
from ckptconv.formats.hdf5.structures import heaps, superblock
from ckptconv.formats.onnx import walk
from ckptconv.formats.openvino import read as openvino
from ckptconv.formats.safetensors import layout
from ckptconv.formats.targets import blobs
from ckptconv.formats.tensors import npy as npz
from ckptconv.formats.tflite import flatbuffer, sparse
from ckptconv.formats.tflite import read as tflite
from ckptconv.formats.torch.containers import saved
from ckptconv.formats.torch.pickle import values
from ckptconv.formats.torch.tree import assemble
from ckptconv.io import limits, protobuf, zip
from tests.hostile.bombs import deflated, doubling, wide, zeros
from tests.hostile.cases import SMALL, beside, checkpoint, stacked
from tests.hostile.honest import honest
from tests.hostile.others import RAW, field, header, model, node, two_tensors, weight
from tests.support.craft import FOUR_FLOATS, state_dict, tensor, zip_bytes

if TYPE_CHECKING:
    from types import ModuleType

SPARSE = Path(__file__).parents[2] / "fixtures" / "others" / "tflite-sparse.tflite"
PAGE = (Path(__file__).parent / "README.md").read_text("utf-8")

TABLE = [
    limits.MAX_PICKLE_BYTES, limits.MAX_INFLATED_RECORD, limits.MAX_INFLATED_RATIO, limits.MAX_ZIP_ENTRIES,
    limits.MAX_FILES, limits.MAX_ARCHIVE_RATIO, limits.MAX_LZMA_MEMORY, limits.MAX_PARSED_RATIO,
    limits.MAX_BUILDS, limits.MAX_DOCUMENT, limits.MAX_DOCUMENTS,
    limits.MAX_TENSORS, limits.MAX_RANK, limits.MAX_DEPTH, limits.MAX_NODES, limits.NODES_A_BYTE,
    limits.MAX_INT_DIGITS, limits.MAX_NAMES, limits.MAX_NAME, limits.MAX_COLLISIONS, limits.MAX_SAFETENSORS_HEADER,
    limits.MAX_GGUF_HEADER, limits.MAX_CONFIG_VALUES, limits.MAX_SCHEMA, limits.MAX_SCHEMA_VALUES, limits.MAX_TOKENIZER, limits.MAX_NPY_HEADER, limits.MAX_NPZ_TEXT, limits.MAX_HDF5_METADATA,
    limits.MAX_HDF5_TEXT, limits.MAX_HDF5_PATH, limits.MAX_HDF5_CHUNKS, limits.MAX_HDF5_CHUNK,
    limits.MAX_OCDBT_NODES, limits.MAX_OCDBT_RATIO, limits.MAX_OCDBT_KEYS, limits.MAX_ZARR_CHUNKS,
    limits.MAX_ZSTD_RATIO, limits.MAX_ZSTD_WINDOW, limits.MAX_ZARR_WHOLE, limits.MAX_ORBAX_TEXT,
    limits.MAX_MSGPACK_TEXT, limits.MAX_FLATBUFFER_TEXT, limits.MAX_TFLITE_TEXT, sparse.MAX_VALUES,
    limits.MAX_OPENVINO_XML, limits.MAX_OPENVINO_MARKUP, limits.MAX_OPENVINO_TEXT,
    openvino.TEXT_A_BYTE, limits.MAX_SHARED_RATIO, caffe.MAX_BLOBS,
    limits.MAX_STORED_BYTES, protobuf.MAX_FIELDS,
    walk.MAX_SEGMENTS, walk.MAX_SUBGRAPHS,
]  # fmt: skip


def test_the_readme_states_the_limits_as_they_are() -> None:
    rows = PAGE.split("<!-- table: limits -->")[1].split("\n\n")[0].strip().splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == [f"{limit:,}" for limit in TABLE]
    assert any("past 100,000 |" in row for row in rows)
    assert f"past {limits.FREE_ARCHIVE_BYTES:,} bytes" in PAGE
    assert limits.FREE_NODES == 100_000
    assert f"past {limits.FREE_PARSED_BYTES:,} bytes" in PAGE
    assert f"past {limits.FREE_OCDBT_BYTES:,} bytes" in PAGE
    assert f"past {openvino.FREE_TEXT:,} bytes" in PAGE
    assert f"past {limits.FREE_SHARED_BYTES:,} bytes" in PAGE


def of(value: bytes) -> bytes:
    return checkpoint(beside(value))


def strings(count: int) -> bytes:
    return header(json.dumps({"__metadata__": {"a": "b" * count}}).encode(), b"")


def long_gguf(count: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IQ", 8, count) + b"v" * count + bytes(32)


def subgraphs(depth: int) -> bytes:
    inner = field(5, weight(RAW, name=b"i"))
    for _ in range(depth):
        inner = node(b"If", (b"x",), (b"y",), field(1, b"then_branch") + field(6, inner) + field(20, 5))
    return field(1, 10) + field(7, inner)


def pieces(count: int) -> bytes:
    # single numbers apart from each other, so that each is a piece of its own
    return model(weight((field(4, FOUR_FLOATS[:4]) + field(12, b"")) * count, dims=(count,)))


LONG = "n" * 4000
EXACT: dict[str, tuple[str, bytes, bytes]] = {
    "dimensions": (
        ".pth",
        checkpoint(state_dict(w=tensor(numel=4, size=b"(K\x04" + b"K\x01" * 63 + b"t", stride=b"(" + b"K\x01" * 64 + b"t"))),
        checkpoint(state_dict(w=tensor(numel=4, size=b"(K\x04" + b"K\x01" * 64 + b"t", stride=b"(" + b"K\x01" * 65 + b"t"))),
    ),
    "nesting": (".pth", of(b"]" * 63 + b"a" * 62), of(b"]" * 66 + b"a" * 65)),
    "nesting of keys": (".pth", of(b"})" + b"\x85" * 60 + b"Ns"), of(b"})" + b"\x85" * 66 + b"Ns")),
    "digits": (".pth", of(b"I" + b"9" * 4300 + b"\n"), of(b"I" + b"9" * 4301 + b"\n")),
    "a name": (".pth", of(stacked(LONG, "n" * 96)), of(stacked(LONG, "n" * 97))),
    "collisions": (
        ".pth",
        of(b"\x8f(" + b"".join(wide(i * ((1 << 61) - 1)) for i in range(100)) + b"\x90"),
        of(b"\x8f(" + b"".join(wide(i * ((1 << 61) - 1)) for i in range(1, 103)) + b"\x90"),
    ),
    "shared values": (".pth", of(b"]" + doubling(b"](" + b"?" * 10 + b"e", 4)), of(b"]" + doubling(b"](" + b"?" * 10 + b"e", 6))),
    "subgraphs": (".onnx", subgraphs(29), subgraphs(31)),
    "pieces": (".onnx", pieces(10_000), pieces(10_001)),
}  # fmt: skip


@pytest.mark.parametrize(("suffix", "at", "past"), EXACT.values(), ids=EXACT.keys())
def test_what_is_at_a_limit_is_read_and_what_is_past_it_is_refused(
    suffix: str, at: bytes, past: bytes, tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(at)
    ckptconv.open(path).close()
    path.write_bytes(past)
    with pytest.raises(CkptconvError) as refused:
        ckptconv.open(path)
    assert refused.value.hint


TWO_TENSORS = state_dict(w=tensor(), v=tensor())
LOWERED: dict[str, tuple[ModuleType, str, int, str, bytes]] = {
    "a pickle": (saved, "MAX_PICKLE_BYTES", 100, ".pth", checkpoint(TWO_TENSORS)),
    "a compressed record": (zip, "MAX_INFLATED_RECORD", 100, ".pth", deflated()),
    "inflated : compressed": (zip, "MAX_INFLATED_RATIO", 900, ".pth", deflated(data_0=(zeros(1), 1 << 20))),
    "entries": (zip, "MAX_ZIP_ENTRIES", 3, ".pth", zip_bytes([*SMALL, ("a/data.pkl", TWO_TENSORS), ("a/data/0", FOUR_FLOATS)])),
    "tensors of a .pth": (assemble, "MAX_TENSORS", 1, ".pth", checkpoint(TWO_TENSORS)),
    "tensors of a safetensors": (layout, "MAX_TENSORS", 1, ".safetensors", two_tensors([0, 4], [4, 16])),
    "tensors of an ONNX": (walk, "MAX_TENSORS", 1, ".onnx", model(weight(RAW), weight(RAW, name=b"v"))),
    "values": (values, "MAX_NODES", 50, ".pth", of(b"(" + b"N" * 60 + b"l")),
    "a safetensors header": (layout, "MAX_SAFETENSORS_HEADER", 1000, ".safetensors", strings(2000)),
    "a GGUF header": (gguf, "MAX_GGUF_HEADER", 1000, ".gguf", long_gguf(1 << 20)),
    "a header in an .npz": (npz, "MAX_NPY_HEADER", 50, ".npz", honest("npz")[0]),
    "text in msgpack": (msgpack_cursor, "MAX_MSGPACK_TEXT", 100, ".msgpack", honest("flax")[0]),
    "values of msgpack": (msgpack, "MAX_NODES", 5, ".msgpack", honest("flax")[0]),
    "tensors of Flax": (flax, "MAX_TENSORS", 1, ".msgpack", honest("flax")[0]),
    "structures of an HDF5 file": (superblock, "MAX_HDF5_METADATA", 3000, ".h5", honest("hdf5")[0]),
    "texts of an HDF5 file": (heaps, "MAX_HDF5_TEXT", 50, ".h5", honest("hdf5")[0]),
    "a path in an HDF5 file": (tree, "MAX_HDF5_PATH", 5, ".h5", honest("hdf5")[0]),
    "tensors of an HDF5 file": (tree, "MAX_TENSORS", 5, ".h5", honest("hdf5")[1]),
    "a name in a TensorFlow Lite model": (flatbuffer, "MAX_FLATBUFFER_TEXT", 5, ".tflite", honest("tflite")[0]),
    "bytes that are read of one": (flatbuffer, "FREE_FLATBUFFER_BYTES", -10_000, ".tflite", honest("tflite")[0]),
    "texts in one": (tflite, "MAX_TFLITE_TEXT", 50, ".tflite", honest("tflite")[0]),
    "tensors of one": (tflite, "MAX_TENSORS", 5, ".tflite", honest("tflite")[0]),
    "values of a sparse tensor": (sparse, "MAX_VALUES", 5, ".tflite", SPARSE.read_bytes()),
    "names of a .pth": (names, "MAX_NAMES", 1, ".pth", checkpoint(TWO_TENSORS)),
    "names of Flax": (names, "MAX_NAMES", 5, ".msgpack", honest("flax")[0]),
    "fields": (protobuf, "MAX_FIELDS", 3, ".onnx", model(weight(RAW), weight(RAW, name=b"v"))),
}  # fmt: skip


@pytest.mark.parametrize(("module", "name", "value", "suffix", "data"), LOWERED.values(), ids=LOWERED.keys())
def test_a_limit_too_high_for_a_test_holds_when_it_is_lowered(
    module: ModuleType, name: str, value: int, suffix: str, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    format = {".pth": "torch", ".msgpack": "flax", ".h5": "hdf5"}.get(suffix, suffix[1:])
    if name != "MAX_INFLATED_RATIO":
        ckptconv.open(path, format=format).close()
    monkeypatch.setattr(module, name, value)
    with pytest.raises(LimitError) as refused:
        ckptconv.open(path, format=format)
    assert refused.value.hint


class Thing:
    """What is not built."""


BELOW: dict[str, object] = {
    "tensors": [np.zeros(1, "f4")] * 20,
    "tensors of a dict": {f"w{i}": np.zeros(1, "f4") for i in range(20)},
    "what is not a tensor that is read": [np.zeros(1, "M8[s]")] * 20,
    "objects": [Thing() for _ in range(20)],
}


@pytest.mark.parametrize("below", BELOW.values(), ids=BELOW.keys())
def test_a_long_key_is_not_written_out_for_each_of_what_is_below_it(
    below: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"k" * 1000: below, "x": {"w": np.zeros(1, "f4")}}))
    ckptconv.inspect(tmp_path / "x.pkl")
    monkeypatch.setattr(names, "MAX_NAMES", 10_000)
    with pytest.raises(LimitError, match=r"x\.pkl: the names of what is in it have more than 10,000 characters"):
        ckptconv.inspect(tmp_path / "x.pkl")


def test_bytes_beside_a_header_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = tmp_path / "x.pth", tmp_path / "x.safetensors"
    source.write_bytes(checkpoint(state_dict(state_dict=b"}", m=b"B" + struct.pack("<I", 1 << 17) + bytes(1 << 17))))
    ckptconv.convert(source, path)
    ckptconv.open(path).close()
    monkeypatch.setattr(blobs, "MAX_STORED_BYTES", 1 << 16)
    with pytest.raises(LimitError):
        ckptconv.open(path)


@pytest.mark.parametrize(
    ("module", "limit"), [(chunk_index, "MAX_HDF5_CHUNKS"), (chunks, "MAX_HDF5_CHUNK")], ids=["chunks", "a chunk"]
)
def test_chunks_of_an_hdf5_file_are_bounded_when_they_are_read(
    module: ModuleType, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.h5").write_bytes(honest("hdf5")[0])
    with ckptconv.open(tmp_path / "x.h5") as checkpoint:
        checkpoint["z"].read()
    monkeypatch.setattr(module, limit, 5)
    with ckptconv.open(tmp_path / "x.h5") as checkpoint, pytest.raises(LimitError) as refused:
        checkpoint["z"].read()
    assert refused.value.hint
