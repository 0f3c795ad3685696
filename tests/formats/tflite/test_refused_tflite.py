"""Models of TensorFlow Lite that contradict themselves, or the memory of whoever opens them."""

from __future__ import annotations

from pathlib import Path
from struct import pack
from typing import Any

import pytest

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.testing.damage import limited_memory
from tests.support.flatbuffer_files import (
    Repeated,
    Table,
    dense,
    flatbuffer,
    model,
    numbers,
    quantized,
    sparse,
    sparsity,
    tensor,
)

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"
INT8, STRING = 9, 5
FOUR = b"\1\2\3\4"


def one(shape: tuple[int, ...] = (4,), kind: int = INT8, data: bytes | Table = FOUR, **more: Any) -> Table:
    return model([tensor(b"w", shape, kind, 1, **more)], data)


def csr(*levels: Table, shape: tuple[int, ...] = (2, 3), data: bytes = FOUR, **more: Any) -> Table:
    return one(shape, data=data, sparsity=sparsity(more.pop("order", (0, 1)), *levels, **more))


ROWS = sparse([0, 2, 4], [0, 2, 1, 2])
CASES: dict[str, tuple[Table, type[CkptconvError], str]] = {
    "an old version": (model([], version=("I", 2)), UnsupportedError, "version 2"),
    "no graph": (model([], graphs=[]), CorruptFileError, "no graph"),
    "too few bytes": (one((5,)), CorruptFileError, "holds 4 bytes, and I8 of shape \\[5\\] takes 5"),
    "too many bytes": (one((3,)), CorruptFileError, "holds 4 bytes"),
    "a negative size": (one((-4,)), CorruptFileError, "the shape \\[-4\\]"),
    "sizes past all bounds": (one((1 << 30, 1 << 30, 1 << 30)), CorruptFileError, "the shape"),
    "more dimensions than torch has": (one((1,) * 65), CorruptFileError, "the shape"),
    "an unknown type": (one(kind=99), UnsupportedError, "element type 99"),
    "a buffer that is not there": (model([tensor(b"w", (4,), INT8, 7)], FOUR), CorruptFileError, "2 buffers"),
    "an external buffer": (one(external=("I", 1)), UnsupportedError, "external buffer"),
    "a buffer past the end": (one(data={1: ("Q", 1 << 40), 2: ("Q", 4)}), CorruptFileError, "the buffer 1 should end"),
    "a buffer that wraps around": (one(data={1: ("Q", 2**64 - 2), 2: ("Q", 4)}), CorruptFileError, "the buffer 1"),
    "a name that is not text": (model([tensor(b"\xff", (4,), INT8, 1)], FOUR), CorruptFileError, "not UTF-8"),
    "a name of a book": (model([tensor(b"w" * 70_000, (4,), INT8, 1)], FOUR), LimitError, "name of 70,000"),
    "scales without points": (one(quantization={2: numbers("f", 1)}), CorruptFileError, "1 scales and 0 zero points"),
    "fewer points than scales": (one(quantization=quantized([1, 2], [0])), CorruptFileError, "2 scales and 1 zero"),
    "another number of scales": (one(quantization=quantized([1, 2], [0, 0])), CorruptFileError, "along dimension 0"),
    "an axis that is not there": (one(quantization=quantized([1] * 4, [0] * 4, 1)), CorruptFileError, "dimension 1"),
    "a negative axis": (one(quantization=quantized([1] * 4, [0] * 4, -1)), CorruptFileError, "dimension -1"),
    "scales that are no tensor": (one(quantization={4: ("B", 2), 5: {0: ("i", 9)}}), CorruptFileError, "tensor 9 of 1"),
    "texts without a number": (one((1,), STRING, b"\1"), CorruptFileError, "strings in 1 bytes"),
    "another number of texts": (one((2,), STRING, pack("<3i", 1, 12, 12)), CorruptFileError, "has 1 strings"),
    "a negative number of texts": (one((1,), STRING, pack("<3i", -1, 12, 12)), CorruptFileError, "-1 strings"),
    "texts past the end": (one((1,), STRING, pack("<3i", 1, 12, 13)), CorruptFileError, "outside"),
    "texts that go back": (one((2,), STRING, pack("<4i", 2, 17, 16, 17) + b"a"), CorruptFileError, "outside"),
    "texts over their offsets": (one((1,), STRING, pack("<3i", 1, 4, 12)), CorruptFileError, "outside"),
    "metadata of a buffer that is not there": (
        model([], metadata=[{0: b"x", 1: ("I", 3)}]), CorruptFileError, "1 buffers, and number 3",
    ),
    "metadata twice": (model([], metadata=[{0: b"x"}, {0: b"x"}]), CorruptFileError, "comes twice"),
    "an input that is not there": (model([], graphs=[{1: numbers("i", 3)}]), CorruptFileError, "tensor 3 of 0"),
    "an operator without a code": (model([], graphs=[{3: [{}]}]), CorruptFileError, "the code 0 of 0"),
    "a signature of no graph": (model([], signatures=[{4: ("I", 2)}]), CorruptFileError, "subgraph 2 of 1"),
    "sparse in no order": (csr(dense(2), ROWS, order=(0, 0)), CorruptFileError, "no order"),
    "sparse with a level too few": (csr(dense(2)), CorruptFileError, "no order"),
    "sparse of another size": (csr(dense(3), ROWS), CorruptFileError, "other sizes"),
    "sparse with too few values": (csr(dense(2), ROWS, data=b"\1\2\3"), CorruptFileError, "its 4 values take 4"),
    "sparse with too few segments": (csr(dense(2), sparse([0, 4], [0, 2, 1, 2])), CorruptFileError, "segments"),
    "sparse without indices": (csr(dense(2), {0: ("b", 1)}), CorruptFileError, "without its indices"),
    "sparse blocks that do not fit": (
        csr(dense(2), dense(1), dense(2), order=(0, 1, 2), blocks=(1,)), CorruptFileError, "whole number of blocks",
    ),
    "sparse bits": (one((4,), 17, b"\1\2", sparsity=sparsity((0,), dense(4))), UnsupportedError, "sparse tensor of I4"),
    "sparse, of nothing and enormous": (
        csr(sparse([0, 0], []), sparse([0], []), shape=(1 << 20, 1 << 20), data=b""),
        LimitError, "is sparse, of 0 values",
    ),
    "sparse, and dense in between": (
        csr(dense(1 << 30), sparse([0, 0], []), shape=(1 << 30, 3), data=b""), LimitError, "of 1,073,741,824 values",
    ),
    "sparse, and dense at the end": (
        csr(sparse([0, 1], [0]), dense(1 << 30), shape=(1, 1 << 30)), LimitError, "of 1,073,741,824 values",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("root", "error", "words"), CASES.values(), ids=CASES)
def test_what_cannot_be_is_refused_with_the_reason(
    root: Table, error: type[CkptconvError], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(flatbuffer(root))
    with pytest.raises(error, match=words) as caught:
        ckptconv.open(path)
    assert type(caught.value) is error
    assert caught.value.hint


BAD_INDICES = {
    "outside": (sparse([0, 2, 4], [0, 3, 1, 2]), "outside of its shape"),
    "negative": (sparse([0, 2, 4], [0, -1, 1, 2]), "outside of its shape"),
    "going back": (sparse([0, 5, 4], [0, 1, 1, 2]), "do not fit"),
    "not from the start": (sparse([1, 2, 4], [0, 1, 1, 2]), "do not fit"),
    "not to the end": (sparse([0, 2, 3], [0, 1, 1, 2]), "do not fit"),
}


@pytest.mark.parametrize(("rows", "words"), BAD_INDICES.values(), ids=BAD_INDICES)
def test_indices_are_checked_as_they_are_read(rows: Table, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(flatbuffer(csr(dense(2), rows)))
    with ckptconv.open(path) as checkpoint, pytest.raises(CorruptFileError, match=words):
        checkpoint["w"].read()


@pytest.mark.parametrize("code", ["i", "H", "B"])
def test_indices_are_of_three_widths(code: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(flatbuffer(csr(dense(2), sparse([0, 2, 4], [0, 2, 1, 2], code))))
    with ckptconv.open(path) as checkpoint:
        assert bytes(checkpoint["w"].read()) == bytes([1, 0, 2, 0, 3, 4])


def test_columns_may_come_first(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(flatbuffer(csr(dense(3), sparse([0, 1, 2, 4], [1, 0, 0, 1]), order=(1, 0))))
    with ckptconv.open(path) as checkpoint:
        assert bytes(checkpoint["w"].read()) == bytes([0, 2, 3, 1, 0, 4])


@pytest.mark.parametrize("times", [(3_000, 1), (1, 30_000)], ids=["graphs of many tensors", "a long name"])
def test_tables_that_are_all_the_same_one_are_no_way_to_spend_hours(times: tuple[int, int], tmp_path: Path) -> None:
    graphs, tensors = times
    width = 3_000 if graphs > 1 else tensors
    name = b"w" if graphs > 1 else b"w" * 60_000
    again = Repeated(tensor(name, (4,), INT8, 1), width)
    path = tmp_path / "x.tflite"
    path.write_bytes(flatbuffer(model([], FOUR, graphs=Repeated({0: again, 4: b"g"}, graphs))))
    assert path.stat().st_size < 1 << 18
    with limited_memory(256 << 20), pytest.raises(LimitError, match=r"again and again|more than"):
        ckptconv.open(path)


def reading(path: Path) -> object:
    with ckptconv.open(path) as checkpoint:
        for tensor in checkpoint.all_tensors.values():
            assert len(tensor.read()) == tensor.info.nbytes
        return list(checkpoint)


@pytest.mark.parametrize("name", ["tflite-types", "tflite-sparse", "tflite-int4"])
def test_a_damaged_model_is_an_error_or_is_read_whole(name: str, tmp_path: Path) -> None:
    path, whole = tmp_path / "x.tflite", (OTHERS / f"{name}.tflite").read_bytes()
    damaged = [whole[:end] for end in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            reading(path)
        except CkptconvError as error:
            assert error.hint
            refused += 1
    assert refused > len(whole) // 2
