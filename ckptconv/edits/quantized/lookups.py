"""Weights that are looked up: in tables, one for each block; or by a mask, as sparse weights are.

    Looked      codes, with a table for each block of them, by `Grid`
    Scattered   the elements at the set bits of a mask, zeros elsewhere

Tables are read beforehand. The mask is counted once, when the first element is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.edits.quantized.elements import cut
from ckptconv.edits.quantized.matrix import Mapped
from ckptconv.edits.quantized.parts import FLOATS, Parts, check_dtype, folded, sizes_of
from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.arrays import Array
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.quantized.matrix import Grid, Matrix

BLOCK = 1 << 16
"""Bytes of a mask between two entries of the running count of set bits."""

_ELEMENTS = (*FLOATS, DType.I8, DType.U8)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The running number of each element of a matrix, row by row."""

    shape: tuple[int, int]
    light: bool = True

    def rectangle(self, rows: range, columns: range) -> Array:
        """As F32, which represents numbers up to 16,777,216 exactly."""
        import numpy as np

        made = np.arange(rows.start, rows.stop)[:, None] * self.shape[1] + np.arange(columns.start, columns.stop)
        result: Array = made.astype(np.float32)
        return result


@dataclass(frozen=True, slots=True)
class Looked(Mapped):
    """Codes looked up in their blocks' tables. tables: a row for each block."""

    tables: Array
    grid: Grid
    by: tuple[int, int]

    def rectangle(self, rows: range, columns: range) -> Array:
        """The values of the codes."""
        result = self.source.rectangle(rows, columns)
        self.grid.apply(self._look_up, result, Numbers(self.by), rows, columns)
        return result

    def _look_up(self, codes: Array, blocks: Array, out: Array) -> None:
        import numpy as np

        out[...] = self.tables[np.broadcast_to(blocks, codes.shape).astype(np.intp), codes.astype(np.intp)]


@dataclass(slots=True)
class Scattered:
    """Elements at the places where a mask has a set bit, counted from each byte's lowest bit.

    before: how many bits are set before each block of the mask.
    """

    values: LazyTensor
    mask: LazyTensor
    shape: tuple[int, int]
    light: bool = False
    before: list[int] = field(default_factory=list)

    def rectangle(self, rows: range, columns: range) -> Array:
        """Several rows are read whole, and cut."""
        width = self.shape[1]
        if len(rows) == 1:
            start = rows.start * width + columns.start
            return self._run(start, start + len(columns)).reshape(1, -1)
        return cut(self._run(rows.start * width, rows.stop * width).reshape(len(rows), width), columns)

    def _run(self, start: int, stop: int) -> Array:
        import numpy as np

        self._count()
        first, last = start // 8, -(-stop // 8)
        block = first // BLOCK
        bits = np.unpackbits(np.frombuffer(self.mask.read(first, last), np.uint8), bitorder="little")
        skipped = int(np.count_nonzero(bits[: start - 8 * first]))
        at = self.before[block] + _set_in(self.mask.read(block * BLOCK, first)) + skipped
        there = bits[start - 8 * first : stop - 8 * first].astype(bool)
        result = np.zeros(stop - start, np.float32)
        result[there] = self.values.elements(at, at + int(np.count_nonzero(there)))
        return result

    def _count(self) -> None:
        """Count the set bits. Raises CorruptFileError if there are more or fewer than elements."""
        if self.before:
            return
        size, before = self.mask.info.nbytes, [0]
        for start in range(0, size, BLOCK):
            before.append(before[-1] + _set_in(self.mask.read(start, min(start + BLOCK, size))))
        if before[-1] != self.values.info.numel:
            raise CorruptFileError(
                f"a mask has {before[-1]:,} places, and there are {self.values.info.numel:,} elements for them"
            )
        self.before = before


def _set_in(data: memoryview) -> int:
    return int.from_bytes(data, "little").bit_count()


def sparse(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    """Core ML's sparse weights: elements, and their places in a weight of the shape `shape`."""
    values, mask, shape = parts["values"], parts["mask"], sizes_of(details, "shape")
    check_dtype(values, "values", _ELEMENTS)
    check_dtype(mask, "mask", (DType.U8,))
    if mask.info.numel != -(-prod(shape) // 8):
        raise ValueError(f"a mask of {mask.info.numel} bytes is not for the shape {list(shape)}")
    return Scattered(values, mask, folded(shape)), shape
