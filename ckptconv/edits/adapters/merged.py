"""A weight with the changes that adapters make to it, computed while it is read.

    Add         W + scale · Δ
    Decompose   m · (W + scale · Δ) / ‖W + scale · Δ‖                 DoRA: norms of rows, or of columns
    Multiply    W with each row, or each column, times a number       IA3
    Replace     W with some rows replaced                             trainable tokens

and those in `rotations`.

All changes of a weight are made one after another in F64, and the result is rounded once, to the weight's type or the
one that it is cast to. It is computed in tiles whose places do not depend on the range that is read, so that every read
gives the same bits. That takes memory for the range, a tile, and the factors (`deltas`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo, depends_of
from ckptconv.edits.adapters.matrices import RECENT
from ckptconv.edits.cast import FLOATS
from ckptconv.edits.computed import Computed
from ckptconv.edits.rounding import Loss, cast_array, rounded_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptconv.core.arrays import Array
    from ckptconv.edits.adapters.deltas import Delta
    from ckptconv.edits.adapters.matrices import Factor

    Values = Callable[[range, range], Array]

TILE = 1 << 16
"""Elements that are computed at a time: half a megabyte of F64."""


class Change(Protocol):
    """A change to a weight of a known shape (rows, columns)."""

    @property
    def tensors(self) -> tuple[LazyTensor, ...]:
        """What it is computed from, besides the weight."""

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """A rectangle of the new weight, as F64. `before` gives rectangles of the old one."""


@dataclass(frozen=True, slots=True, eq=False)
class Add:
    """W + scale · Δ."""

    delta: Delta
    scale: float
    tensors: tuple[LazyTensor, ...] = ()

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """The sum."""
        result = before(rows, columns)
        delta = self.delta.rectangle(rows, columns)
        delta *= self.scale
        result += delta
        return result


@dataclass(eq=False)
class Decompose:
    """The weight with every row, or every column, scaled to a length: its magnitude over its norm.

    along:  0: a norm for each row, over its columns. 1: one for each column.
    spread: how many neighbouring columns share a norm, as those of a convolution's kernel do.
    """

    magnitude: Factor
    along: int = 0
    spread: int = 1
    tensors: tuple[LazyTensor, ...] = ()
    norms: Array | None = field(default=None, init=False)  # of the columns: they take reading all rows, once
    lock: Lock = field(default_factory=Lock, init=False)

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """The weight times magnitude over norm."""
        import numpy as np

        result = before(rows, columns)
        magnitude = self.magnitude.whole().reshape(-1)
        with np.errstate(all="ignore"):
            if self.along == 1:
                factors = np.repeat(magnitude / self._column_norms(before, shape), self.spread)
                result *= factors[columns.start : columns.stop]
            else:
                norms = _row_norms(result, before, shape, rows, columns)
                result *= (magnitude[rows.start : rows.stop] / norms)[:, None]
        return result

    def _column_norms(self, before: Values, shape: tuple[int, int]) -> Array:
        import numpy as np

        with self.lock:
            if self.norms is None:
                total = np.zeros(shape[1], np.float64)
                for rows, columns in _tiles(shape):
                    total[columns.start : columns.stop] += np.square(before(rows, columns)).sum(axis=0)
                total = total.reshape(-1, self.spread).sum(axis=1)
                self.norms = np.sqrt(total)
            return self.norms


def _row_norms(made: Array, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
    """The norms of some rows, of which `made` has some or all columns."""
    import numpy as np

    total: Array = np.zeros(len(rows))
    if len(columns) == shape[1]:
        total += np.square(made).sum(axis=1)
    else:
        for at in range(0, shape[1], TILE):
            total += np.square(before(rows, range(at, min(at + TILE, shape[1])))).sum(axis=1)
    norms: Array = np.sqrt(total)
    return norms


@dataclass(frozen=True, slots=True, eq=False)
class Multiply:
    """The weight with every row (along 0) or every column (1) multiplied by a number: plus + times · what is stored.

    spread: as in `Decompose`.
    """

    numbers: Factor
    along: int = 0
    spread: int = 1
    tensors: tuple[LazyTensor, ...] = ()
    plus: float = 0.0
    times: float = 1.0

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """The product."""
        import numpy as np

        result, numbers = before(rows, columns), self.plus + self.times * self.numbers.whole().reshape(-1)
        if self.along == 0:
            result *= numbers[rows.start : rows.stop, None]
        else:
            result *= np.repeat(numbers, self.spread)[columns.start : columns.stop]
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Replace:
    """The weight with some rows replaced. places: row of the weight → row of `values`."""

    places: Mapping[int, int]
    values: Factor
    tensors: tuple[LazyTensor, ...] = ()

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """The rows, some of them replaced."""
        result = before(rows, columns)
        for row in rows:
            if row in self.places:
                result[row - rows.start] = self.values.part(self.places[row], columns)[0]
        return result


def _tiles(shape: tuple[int, int]) -> Iterator[tuple[range, range]]:
    """The tiles of a matrix, in the order of its elements."""
    for number in range(_tile_count(shape)):
        yield _tile(shape, number)


def _tile_count(shape: tuple[int, int]) -> int:
    rows, width = shape
    return -(-rows // max(1, TILE // width)) * -(-width // TILE) if width else 0


def _tile(shape: tuple[int, int], number: int) -> tuple[range, range]:
    """A tile: some whole rows, or part of a row that is longer than a tile."""
    rows, width = shape
    if width <= TILE:
        many = TILE // width
        return range(number * many, min((number + 1) * many, rows)), range(width)
    row, part = divmod(number, -(-width // TILE))
    return range(row, row + 1), range(part * TILE, min((part + 1) * TILE, width))


@dataclass
class MergedReader(Computed):
    """A reader of a weight with `changes` made to it."""

    changes: tuple[Change, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return matrix_shape(self.source.info.shape)

    def cast_to(self, dtype: DType) -> LazyTensor:
        """The same weight, rounded to another type instead."""
        return _tensor(self.source, self.changes, dtype)

    def __call__(self, start: int, stop: int) -> memoryview:
        unit, width = self.dtype.bits // 8, self.shape[1]
        RECENT.start_reading(self)
        result, base = bytearray(), None
        for number in self._tile_numbers(start // unit, -(-stop // unit)):
            rows, columns = _tile(self.shape, number)
            base = (rows.start * width + columns.start) * unit if base is None else base
            result += RECENT.get(self, number, partial(self._tile_bytes, number)).data
        return memoryview(result)[start - (base or 0) : stop - (base or 0)]

    def _tile_numbers(self, first: int, last: int) -> range:
        """The numbers of the tiles that have elements [first, last)."""
        width = self.shape[1]
        if width <= TILE:
            size = TILE // width * width
            return range(first // size, -(-last // size))
        parts = -(-width // TILE)

        def tile(element: int) -> int:
            row, column = divmod(element, width)
            return row * parts + column // TILE

        return range(tile(first), tile(last - 1) + 1)

    def _tile_bytes(self, number: int) -> Array:
        """The bytes of a tile."""
        import numpy as np

        from ckptconv.core.arrays import to_bytes

        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is counted below
            values = self._after_changes(len(self.changes))(*_tile(self.shape, number)).reshape(-1)
        if self.dtype is self.source.info.dtype:
            result, overflowed = rounded_once(values, self.dtype)
            loss = Loss(overflowed)
        else:
            result, loss = cast_array(values, DType.F64, self.dtype)
        loss.overflowed += self._count_overflows(values, number)
        self.note(number, number + 1, loss)
        return np.frombuffer(to_bytes(result, self.dtype), np.uint8)

    def _count_overflows(self, values: Array, number: int) -> int:
        """How many values of a tile were finite in the base and are past F64's range, or NaN, after the changes."""
        import numpy as np

        finite = np.isfinite(values)
        if finite.all():
            return 0
        return int(np.count_nonzero(~finite & np.isfinite(self._read(*_tile(self.shape, number))).reshape(-1)))

    def _after_changes(self, count: int) -> Values:
        """What gives rectangles of the weight after the first `count` changes."""
        if not count:
            return self._read
        change, before = self.changes[count - 1], self._after_changes(count - 1)
        return lambda rows, columns: change.apply(before, self.shape, rows, columns)

    def _read(self, rows: range, columns: range) -> Array:
        import numpy as np

        width = self.shape[1]
        first, last = rows.start * width + columns.start, (rows.stop - 1) * width + columns.stop
        return self.source.elements(first, last).astype(np.float64).reshape(len(rows), -1)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """A weight's shape as a matrix: its first dimension, and all others as one."""
    return (shape[0], prod(shape[1:])) if shape else (1, 1)


def merged_tensor(tensor: LazyTensor, changes: tuple[Change, ...]) -> LazyTensor:
    """The weight with changes made to it, after any that were made before. Reads nothing."""
    if isinstance(tensor.reader, MergedReader) and tensor.reader.source.info.shape == tensor.info.shape:
        return _tensor(tensor.reader.source, (*tensor.reader.changes, *changes), tensor.info.dtype)
    return _tensor(tensor, changes, tensor.info.dtype)


def _tensor(source: LazyTensor, changes: tuple[Change, ...], dtype: DType) -> LazyTensor:
    info = TensorInfo.of(dtype, source.info.shape)
    depends = depends_of([source, *(tensor for change in changes for tensor in change.tensors)])
    reader = MergedReader(source, dtype, changes=changes)
    return LazyTensor(info, reader, alias=("merged", id(reader)), depends=tuple(dict.fromkeys(depends)))


def is_mergeable_type(dtype: DType) -> bool:
    """Whether weights of that type can be merged into: floats of whole bytes."""
    return dtype in FLOATS and dtype.bits % 8 == 0 and dtype is not DType.F8_E8M0
