"""Stored arrays of an ncnn network, as tensors.

    0x00000000, 0x0002C056      F32 elements
    0x01306B47                  F16 elements
    0x01348B83                  BF16 elements
    0x000D4B38                  I8 elements
    any other                   256 F32 values, then for each element a byte: which of them it is

The flag is a u32; everything is little-endian, and padded to 4 bytes. Arrays without a flag are F32.

Source: ncnn/src/modelbin.cpp (`ModelBinFromDataReader::load`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.strided import contiguous_strides, is_contiguous
from ckptconv.core.tensor import ByteSpan, LazyTensor, Placement, Storage, TensorInfo, in_file
from ckptconv.io.gather import Gather
from ckptconv.io.pieces import Piece, Pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.ncnn.slots import Slot, View
    from ckptconv.io.source import Source

DTYPES = {
    0: DType.F32, 0x0002C056: DType.F32, 0x01306B47: DType.F16, 0x01348B83: DType.BF16, 0x000D4B38: DType.I8
}  # fmt: skip
FLAG, TABLE = 4, 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored array: its elements, and where its table is if they are indices. `end`: the byte after its padding."""

    dtype: DType
    span: ByteSpan
    table: int | None
    end: int


def stored(source: Source, at: int, slot: Slot) -> Stored | None:
    """Read the flag of the array at byte `at`; None if the file ends before the array does."""
    dtype, table = DType.F32, None
    if slot.flagged:
        if at + FLAG > source.size:
            return None
        flag, at = int.from_bytes(source.read_at(at, FLAG), "little"), at + FLAG
        if flag in DTYPES:
            dtype = DTYPES[flag]
        else:
            dtype, table, at = DType.U8, at, at + TABLE
    length = slot.count * dtype.bits // 8
    end = at + (length + 3) // 4 * 4
    return None if end > source.size else Stored(dtype, ByteSpan(source, at, length), table, end)


def tensors(array: Stored, slot: Slot, alias: str) -> Iterator[tuple[View, LazyTensor]]:
    """The tensors in an array."""
    for view in slot.views:
        key = (id(array.span.file), alias, view.name)
        tensor = _turned(array, view, key) if view.axes else _runs(array, view, key)
        yield view, tensor if array.table is None else _looked_up(tensor, array, key)


def _runs(array: Stored, view: View, key: object) -> LazyTensor:
    """A tensor that is made of runs of the array."""
    unit, span = array.dtype.bits // 8, array.span
    info = TensorInfo.of(array.dtype, view.shape)
    if view.runs is None or len(view.runs) == 1:
        start = 0 if view.runs is None else view.runs[0][0]
        return in_file(info, ByteSpan(span.file, span.offset + unit * start, info.nbytes), key)
    whole = in_file(TensorInfo.of(array.dtype, (span.length // unit,)), span)
    pieces = Pieces([Piece(whole, unit * start, unit * stop) for start, stop in view.runs])
    return LazyTensor(info, pieces, None, key, pieces.depends)


def _turned(array: Stored, view: View, key: object) -> LazyTensor:
    """A tensor whose axes are stored in another order."""
    strides = contiguous_strides(view.stored)
    box, steps = tuple(view.stored[axis] for axis in view.axes), tuple(strides[axis] for axis in view.axes)
    info, span = TensorInfo.of(array.dtype, view.shape), array.span
    if is_contiguous(box, steps):
        return in_file(info, span, key)
    storage = Storage(key, span, array.dtype.bits // 8, prod(box), array.dtype)
    return LazyTensor(info, Gather(Placement(storage, 0, box, steps), array.dtype), None, key, (span,))


def _looked_up(indices: LazyTensor, array: Stored, key: object) -> LazyTensor:
    """The values that indices stand for."""
    table = ByteSpan(array.span.file, array.table or 0, TABLE)
    info = TensorInfo.of(DType.F32, indices.info.shape)
    return LazyTensor(info, _Lookup(indices, table), None, key, (table, *indices.depends))


@dataclass(frozen=True, slots=True)
class _Lookup:
    """Reads ranges of the image of looked up values, in memory for the range and a quarter more."""

    indices: LazyTensor
    table: ByteSpan

    def __call__(self, start: int, stop: int) -> memoryview:
        import numpy as np

        first, last = start // 4, -(-stop // 4)
        values = np.frombuffer(self.table.file.read_at(self.table.offset, TABLE), dtype="<f4")
        image: memoryview = values[np.frombuffer(self.indices.read(first, last), dtype="u1")].view("u1").data
        return image[start - 4 * first : stop - 4 * first]
