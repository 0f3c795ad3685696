"""Joins tensors along a dimension, without reading them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.tensor import LazyTensor, TensorInfo, depends_of
from ckptconv.errors import UnsupportedError
from ckptconv.io.pieces import Piece, Pieces

if TYPE_CHECKING:
    from collections.abc import Sequence


def joined(tensors: Sequence[LazyTensor], axis: int) -> LazyTensor:
    """The tensors joined along `axis`; all other dimensions and the element types are equal.

    Raises UnsupportedError where rows end within a byte, or within a block of a quantized type.
    """
    if len(tensors) == 1:
        return tensors[0]
    first = tensors[0].info
    shape = list(first.shape)
    shape[axis] = sum(tensor.info.shape[axis] for tensor in tensors)
    info = TensorInfo.of(first.dtype, tuple(shape))
    depends = depends_of(tensors)
    counts = [prod(tensor.info.shape[axis:]) for tensor in tensors]
    block = first.dtype.block
    if any(count % block or count // block * first.dtype.bits % 8 for count in counts):
        raise UnsupportedError(
            f"rows of {first.dtype} that end within a {'byte' if block == 1 else 'block'} cannot be joined",
            hint="--dtype casts them",
        )
    widths = tuple(first.dtype.nbytes(count) for count in counts)
    return LazyTensor(info, Joined(tuple(tensors), axis, info.shape, widths), depends=depends)


@dataclass(frozen=True)
class Joined:
    """A reader of several tensors as one: each row of the whole is a row of each tensor, one after the other.

    A row is what lies within one index of the dimensions before `axis`. Takes memory for the range that is read.

    shape:  of the whole.
    widths: bytes of a row, for each tensor.
    """

    tensors: tuple[LazyTensor, ...]
    axis: int
    shape: tuple[int, ...]
    widths: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> memoryview:
        whole = sum(self.widths)
        first, last = -(-start // whole), stop // whole  # the rows that are inside the range as a whole
        if first >= last:
            rows = range(start // whole, -(-stop // whole))
            return _concatenated([self._row(row)(*_within(start, stop, row * whole, whole)) for row in rows])
        return _concatenated([
            self._row(first - 1)(start - (first - 1) * whole, whole) if start < first * whole else memoryview(b""),
            self._rows(first, last) if last - first > 1 else self._row(first)(0, whole),
            self._row(last)(0, stop - last * whole) if last * whole < stop else memoryview(b""),
        ])  # fmt: skip

    def _row(self, row: int) -> Pieces:
        places = zip(self.tensors, self.widths, strict=True)
        return Pieces([Piece(tensor, row * width, (row + 1) * width) for tensor, width in places])

    def _rows(self, first: int, last: int) -> memoryview:
        import numpy as np

        rows = np.empty((last - first, sum(self.widths)), dtype=np.uint8)
        at = 0
        for tensor, width in zip(self.tensors, self.widths, strict=True):
            if width:
                part = np.frombuffer(tensor.read(first * width, last * width), dtype=np.uint8)
                rows[:, at : at + width] = part.reshape(-1, width)
            at += width
        return rows.reshape(-1).data


def _within(start: int, stop: int, base: int, length: int) -> tuple[int, int]:
    """The part of a range that is inside a row, counted from the row's start."""
    return max(start - base, 0), min(stop - base, length)


def _concatenated(parts: Sequence[memoryview]) -> memoryview:
    filled = [part for part in parts if len(part)]
    return filled[0] if len(filled) == 1 else memoryview(b"".join(filled))
