"""Models of Caffe's: what OpenCV reads of them is what is read here."""

from __future__ import annotations

from pathlib import Path
from struct import pack

import numpy as np
import pytest

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.caffe import read
from ckptconv.testing.damage import limited_memory
from tests.support.protobuf_files import field, varint
from tests.support.reads import bytes_read, expect_no_cut_to_open

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
NET = RUNTIMES / "caffe-net.caffemodel"
ONE_TWO = pack("<2f", 1, 2)


def test_every_blob_is_what_opencv_reads(tmp_path: Path) -> None:
    with ckptconv.open(NET) as checkpoint, np.load(RUNTIMES / "caffe.npz") as blobs:
        assert checkpoint.format == "caffe"
        assert set(checkpoint) == set(blobs.files)
        for name, tensor in checkpoint.items():
            assert np.array_equal(tensor.numpy().reshape(-1), blobs[name].reshape(-1)), name
            assert tensor.span is not None
    assert checkpoint["conv.weight"].info.shape == (3, 2, 3, 3)
    ckptconv.convert(NET, tmp_path / "x.safetensors")
    assert ckptconv.diff(NET, tmp_path / "x.safetensors").equal
    assert ckptconv.inspect(NET).verdict == "plain"


def blob(shape: bytes, data: bytes, *, number: int = 5) -> bytes:
    return shape + field(number, data)


SHAPE = field(7, field(1, varint(2)))


def layer(name: str, kind: str, *blobs: bytes) -> bytes:
    return field(100, field(1, name.encode()) + field(2, kind.encode()) + b"".join(field(7, one) for one in blobs))


def written(folder: Path, data: bytes) -> Path:
    (folder / "x.caffemodel").write_bytes(data)
    return folder / "x.caffemodel"


def test_layers_of_before_2014_and_shapes_of_four(tmp_path: Path) -> None:
    old = b"".join(field(number, size) for number, size in enumerate((1, 1, 1, 2), 1))
    data = field(1, b"n") + field(2, field(4, b"conv") + field(5, 4) + field(6, blob(old, ONE_TWO)))
    with ckptconv.open(written(tmp_path, data)) as checkpoint:
        assert {name: one.info.shape for name, one in checkpoint.items()} == {"conv.weight": (1, 1, 1, 2)}


def test_blobs_are_called_by_what_they_are_to_their_layer(tmp_path: Path) -> None:
    one = blob(SHAPE, ONE_TWO)
    doubles = blob(field(7, field(1, 2)), pack("<2d", 1, 2), number=8)
    data = layer("bn", "BatchNorm", one, one, one) + layer("x", "Mine", one, doubles) + layer("fc", "InnerProduct", one)
    with ckptconv.open(written(tmp_path, data + layer("fc", "InnerProduct", one))) as checkpoint:
        assert list(checkpoint) == [
            "bn.mean", "bn.variance", "bn.scale_factor", "x.0", "x.1", "fc.weight", "fc#2.weight"
        ]  # fmt: skip
        assert checkpoint["x.1"].info.dtype is DType.F64


BAD: dict[str, tuple[bytes, type[CkptconvError]]] = {
    "few": (layer("a", "Scale", blob(SHAPE, ONE_TWO[:4])), CorruptFileError),
    "huge": (layer("a", "Scale", blob(field(7, field(1, varint(1 << 62) * 2)), ONE_TWO)), CorruptFileError),
    "negative": (layer("a", "Scale", blob(field(7, field(1, varint((1 << 64) - 2))), ONE_TWO)), CorruptFileError),
    "rank": (layer("a", "Scale", blob(field(7, field(1, b"\1" * 65)), ONE_TWO[:4])), LimitError),
    "pieces": (layer("a", "Scale", blob(SHAPE, ONE_TWO[:4]) + field(5, ONE_TWO[4:])), CorruptFileError),
    "cut": (layer("a", "Scale", blob(SHAPE, ONE_TWO))[:-1], CorruptFileError),
    "first version": (field(1, b"n") + field(2, field(1, b"\x0a\1a") + field(4, b"a") + field(5, 4)), UnsupportedError),
}


@pytest.mark.parametrize(("data", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(data: bytes, error: type[CkptconvError], tmp_path: Path) -> None:
    with pytest.raises(error) as refused:
        ckptconv.open(written(tmp_path, data))
    assert refused.value.hint


def test_other_messages_are_not_claimed(tmp_path: Path) -> None:
    graph = (
        field(1, field(1, b"node") + field(2, b"Const")) + field(2, field(1, field(1, b"f"))) + field(4, field(1, 27))
    )
    with pytest.raises(CkptconvError, match="no known format"):  # a frozen graph of TensorFlow's
        ckptconv.open(written(tmp_path, graph).rename(tmp_path / "x.pb"))


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole, path = layer("a", "Scale", blob(SHAPE, ONE_TWO)), tmp_path / "x.caffemodel"
    expect_no_cut_to_open(path, whole, "caffe")


def test_limits_hold_and_opening_reads_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = blob(field(7, field(1, varint(1 << 18))), bytes(1 << 20))
    path = written(tmp_path, layer("a", "Scale", wide, blob(SHAPE, ONE_TWO)))
    with ckptconv.open(path) as checkpoint:
        assert bytes_read(checkpoint) < 64 << 10
    monkeypatch.setattr(read, "MAX_BLOBS", 1)
    with pytest.raises(LimitError):
        ckptconv.open(path)


def test_a_long_name_before_many_blobs_costs_no_memory(tmp_path: Path) -> None:
    data = layer("n" * 60_000, "Mine", *[blob(field(7, b""), ONE_TWO[:4])] * 20_000)
    with limited_memory(256 << 20), pytest.raises(LimitError, match="names repeat"):
        ckptconv.open(written(tmp_path, data))


def test_a_crowd_of_empty_blobs_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, layer("a", "Mine", *[b""] * 200_001))
    with limited_memory(512 << 20), pytest.raises(LimitError, match="200,000 blobs"):
        ckptconv.open(path)
