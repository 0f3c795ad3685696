"""A weight with what adapters change of it, computed while it is read.

    Add         W + scale · Δ
    Decompose   m · (W + scale · Δ) / ‖W + scale · Δ‖                 DoRA: norms of rows, or of columns
    Multiply    W with each row, or each column, times a number       IA3
    Replace     some rows of W are others                             trainable tokens

and those of `rotations`.

All changes of a weight are made one after another in F64, and the sum is rounded once, to the weight's type or to the
one that it is cast to. It is computed in tiles that lie where they do whatever range is read, so that each reading
gives the same bits; memory for the range, a tile, and the factors (`deltas`).
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
    """What becomes of a weight of a known shape (rows, columns)."""

    @property
    def tensors(self) -> tuple[LazyTensor, ...]:
        """What it is computed from, besides the weight."""

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """A rectangle of the new weight, as F64; `before` gives the old one's."""


@dataclass(frozen=True, slots=True, eq=False)
class Add:
    """W + scale · Δ."""

    delta: Delta
    scale: float
    tensors: tuple[LazyTensor, ...] = ()

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """The sum."""
        made = before(rows, columns)
        delta = self.delta.rectangle(rows, columns)
        delta *= self.scale
        made += delta
        return made


@dataclass(eq=False)
class Decompose:
    """The weight with every row, or every column, of another length: its magnitude over its norm.

    along:  0: a norm for each row, over its columns; 1: one for each column.
    spread: neighbouring columns that share a norm, as those of a convolution's kernel do.
    """

    magnitude: Factor
    along: int = 0
    spread: int = 1
    tensors: tuple[LazyTensor, ...] = ()
    norms: Array | None = field(default=None, init=False)  # of the columns, which takes a reading of all rows
    lock: Lock = field(default_factory=Lock, init=False)

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """The weight times magnitude over norm."""
        import numpy as np

        made = before(rows, columns)
        magnitude = self.magnitude.whole().reshape(-1)
        with np.errstate(all="ignore"):
            if self.along == 1:
                factors = np.repeat(magnitude / self._of_columns(before, shape), self.spread)
                made *= factors[columns.start : columns.stop]
            else:
                norms = _of_rows(made, before, shape, rows, columns)
                made *= (magnitude[rows.start : rows.stop] / norms)[:, None]
        return made

    def _of_columns(self, before: Values, shape: tuple[int, int]) -> Array:
        import numpy as np

        with self.lock:
            if self.norms is None:
                total = np.zeros(shape[1], np.float64)
                for rows, columns in _tiles(shape):
                    total[columns.start : columns.stop] += np.square(before(rows, columns)).sum(axis=0)
                total = total.reshape(-1, self.spread).sum(axis=1)
                self.norms = np.sqrt(total)
            return self.norms


def _of_rows(made: Array, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
    """The norms of rows of which `made` has some or all columns."""
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
    """The weight with every row (along 0) or every column (1) times a number, which is plus + times · what is stored.

    spread: as of `Decompose`.
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

        made, numbers = before(rows, columns), self.plus + self.times * self.numbers.whole().reshape(-1)
        if self.along == 0:
            made *= numbers[rows.start : rows.stop, None]
        else:
            made *= np.repeat(numbers, self.spread)[columns.start : columns.stop]
        return made


@dataclass(frozen=True, slots=True, eq=False)
class Replace:
    """The weight with some of its rows replaced. places: the row of `values` that takes a row's place."""

    places: Mapping[int, int]
    values: Factor
    tensors: tuple[LazyTensor, ...] = ()

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """The rows, some of them others."""
        made = before(rows, columns)
        for row in rows:
            if row in self.places:
                made[row - rows.start] = self.values.part(self.places[row], columns)[0]
        return made


def _tiles(shape: tuple[int, int]) -> Iterator[tuple[range, range]]:
    """The whole of a matrix, in the order of its elements."""
    for number in range(_count(shape)):
        yield _tile(shape, number)


def _count(shape: tuple[int, int]) -> int:
    rows, width = shape
    return -(-rows // max(1, TILE // width)) * -(-width // TILE) if width else 0


def _tile(shape: tuple[int, int], number: int) -> tuple[range, range]:
    """Some whole rows, or a part of one that is longer."""
    rows, width = shape
    if width <= TILE:
        many = TILE // width
        return range(number * many, min((number + 1) * many, rows)), range(width)
    row, part = divmod(number, -(-width // TILE))
    return range(row, row + 1), range(part * TILE, min((part + 1) * TILE, width))


@dataclass
class MergedReader(Computed):
    """Reads ranges of a weight's image with `changes` made to it."""

    changes: tuple[Change, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return sides(self.source.info.shape)

    def cast_to(self, dtype: DType) -> LazyTensor:
        """The same, rounded to another type instead."""
        return _tensor(self.source, self.changes, dtype)

    def __call__(self, start: int, stop: int) -> memoryview:
        unit, width = self.dtype.bits // 8, self.shape[1]
        RECENT.turn_to(self)
        made, base = bytearray(), None
        for number in self._numbers(start // unit, -(-stop // unit)):
            rows, columns = _tile(self.shape, number)
            base = (rows.start * width + columns.start) * unit if base is None else base
            made += RECENT.get(self, number, partial(self._made, number)).data
        return memoryview(made)[start - (base or 0) : stop - (base or 0)]

    def _numbers(self, first: int, last: int) -> range:
        """The tiles that elements [first, last) lie in."""
        width = self.shape[1]
        if width <= TILE:
            size = TILE // width * width
            return range(first // size, -(-last // size))
        parts = -(-width // TILE)

        def tile(element: int) -> int:
            row, column = divmod(element, width)
            return row * parts + column // TILE

        return range(tile(first), tile(last - 1) + 1)

    def _made(self, number: int) -> Array:
        """The image of a tile."""
        import numpy as np

        from ckptconv.core.arrays import to_bytes

        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is counted below
            values = self._values(len(self.changes))(*_tile(self.shape, number)).reshape(-1)
        if self.dtype is self.source.info.dtype:
            made, overflowed = rounded_once(values, self.dtype)
            loss = Loss(overflowed)
        else:
            made, loss = cast_array(values, DType.F64, self.dtype)
        loss.overflowed += self._lost(values, number)
        self.note(number, number + 1, loss)
        return np.frombuffer(to_bytes(made, self.dtype), np.uint8)

    def _lost(self, values: Array, number: int) -> int:
        """How many finite values of a tile are past the range of F64 already, or NaN."""
        import numpy as np

        finite = np.isfinite(values)
        if finite.all():
            return 0
        return int(np.count_nonzero(~finite & np.isfinite(self._read(*_tile(self.shape, number))).reshape(-1)))

    def _values(self, many: int) -> Values:
        """The weight after so many of the changes."""
        if not many:
            return self._read
        change, before = self.changes[many - 1], self._values(many - 1)
        return lambda rows, columns: change.apply(before, self.shape, rows, columns)

    def _read(self, rows: range, columns: range) -> Array:
        import numpy as np

        width = self.shape[1]
        first, last = rows.start * width + columns.start, (rows.stop - 1) * width + columns.stop
        return self.source.elements(first, last).astype(np.float64).reshape(len(rows), -1)


def sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a weight: its first dimension, and all others as one."""
    return (shape[0], prod(shape[1:])) if shape else (1, 1)


def merged(tensor: LazyTensor, changes: tuple[Change, ...]) -> LazyTensor:
    """The weight with changes made to it, after those that were made before. Reads nothing."""
    if isinstance(tensor.reader, MergedReader) and tensor.reader.source.info.shape == tensor.info.shape:
        return _tensor(tensor.reader.source, (*tensor.reader.changes, *changes), tensor.info.dtype)
    return _tensor(tensor, changes, tensor.info.dtype)


def _tensor(source: LazyTensor, changes: tuple[Change, ...], dtype: DType) -> LazyTensor:
    info = TensorInfo.of(dtype, source.info.shape)
    depends = depends_of([source, *(tensor for change in changes for tensor in change.tensors)])
    reader = MergedReader(source, dtype, changes=changes)
    return LazyTensor(info, reader, alias=("merged", id(reader)), depends=tuple(dict.fromkeys(depends)))


def is_computed_with(dtype: DType) -> bool:
    """Whether weights of that type are merged into: floats that fill bytes."""
    return dtype in FLOATS and dtype.bits % 8 == 0 and dtype is not DType.F8_E8M0
