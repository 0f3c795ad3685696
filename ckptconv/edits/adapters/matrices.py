"""An adapter's tensors as matrices in F64: read by blocks of rows, or held in memory while one weight is read.

The kinds of matrices are

    Factor          a tensor as it is
    Cored           a factor with the core of a Tucker decomposition
    ComputedMatrix  computed from others
    Transposed      another matrix transposed
    FirstColumns    the first columns of another
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from threading import local
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.arrays import Array
    from ckptconv.core.tensor import LazyTensor


HELD, MOST_BYTES = 16 << 20, 1 << 28
"""Bytes of small arrays, and of large ones, that a thread holds. A single array may be larger."""

LEFT_BLOCK = 1 << 17
"""Elements of a left factor that are read at a time."""


class _Recent(local):
    """The last few arrays that this thread computed: what the weight that is being read needs, and no more.

    Large arrays, which are needed for all of a weight, are held apart, so that many small ones do not push them out.
    """

    def __init__(self) -> None:
        self._reader: object = None
        self._small, self._large = _Cache(HELD), _Cache(MOST_BYTES)

    def start_reading(self, reader: object) -> None:
        """Forget what was held for another weight than the one that `reader` reads."""
        if self._reader is not reader:
            self._reader = reader
            self._small, self._large = _Cache(HELD), _Cache(MOST_BYTES)

    def get(self, owner: object, number: int, make: Callable[[], Array]) -> Array:
        """The owner's array of that number, computed by `make` if it is not held."""
        key = (id(owner), number)
        for cache in (self._small, self._large):
            if (found := cache.get(key)) is not None:
                return found
        result = make()
        (self._large if result.nbytes > HELD // 2 else self._small).put(key, owner, result)
        return result


class _Cache:
    """Arrays of up to `most` bytes in total, or a single one; the least recently used go first."""

    def __init__(self, most: int) -> None:
        self._most, self._nbytes = most, 0
        self._arrays: OrderedDict[tuple[int, int], tuple[object, Array]] = OrderedDict()

    def get(self, key: tuple[int, int]) -> Array | None:
        if key not in self._arrays:
            return None
        self._arrays.move_to_end(key)
        return self._arrays[key][1]

    def put(self, key: tuple[int, int], owner: object, made: Array) -> None:
        self._arrays[key] = (owner, made)  # the owner is held too, so that its id stays its own
        self._nbytes += made.nbytes
        while self._nbytes > self._most and len(self._arrays) > 1:
            self._nbytes -= self._arrays.popitem(last=False)[1][1].nbytes


RECENT = _Recent()


class Matrix(Protocol):
    """The right factor of a product."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def whole(self) -> Array:
        """The whole matrix, held while it is in use."""


class Left(Matrix, Protocol):
    """The left factor of a product."""

    def rows(self, wanted: range) -> Array:
        """Some of its rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A tensor as a matrix. transposed: whether it is stored as columns × rows."""

    tensor: LazyTensor
    shape: tuple[int, int]
    transposed: bool = False

    def block(self, rows: range) -> Array:
        """Some of its rows, as F64."""
        import numpy as np

        high, width = self.shape
        if not self.transposed:
            found = self.tensor.elements(rows.start * width, rows.stop * width)
            return found.astype(np.float64).reshape(len(rows), width)
        result = np.empty((len(rows), width), np.float64)
        for column in range(width):
            result[:, column] = self.tensor.elements(column * high + rows.start, column * high + rows.stop)
        return result

    def part(self, row: int, columns: range) -> Array:
        """Some columns of a row, as F64. Not for a transposed one."""
        import numpy as np

        start = row * self.shape[1]
        return self.tensor.elements(start + columns.start, start + columns.stop).astype(np.float64).reshape(1, -1)

    def whole(self) -> Array:
        """The whole matrix, held while it is in use."""
        return RECENT.get(self, -1, self._read)

    def _read(self) -> Array:
        return self.block(range(self.shape[0]))

    def rows(self, wanted: range) -> Array:
        """Some of its rows; the blocks that they are in are held."""
        import numpy as np

        many = max(1, LEFT_BLOCK // max(self.shape[1], 1))
        parts = []
        for number in range(wanted.start // many, -(-wanted.stop // many)):
            first, last = number * many, min((number + 1) * many, self.shape[0])
            block = RECENT.get(self, number, partial(self.block, range(first, last)))
            parts.append(block[max(wanted.start - first, 0) : wanted.stop - first])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True, slots=True, eq=False)
class Cored:
    """The core (r × s × …) of a Tucker decomposition times its factor (s × inputs), as r × (inputs × …)."""

    core: Factor
    inner: Factor

    @property
    def shape(self) -> tuple[int, int]:
        """Rank, and columns of the weight."""
        return self.core.shape[0], self.core.shape[1] // self.inner.shape[0] * self.inner.shape[1]

    def whole(self) -> Array:
        """The whole matrix, held while it is in use."""
        return RECENT.get(self, -1, self._compute)

    def _compute(self) -> Array:
        import numpy as np

        rank, columns = self.shape
        inner = self.inner.whole()
        core = self.core.whole().reshape(rank, inner.shape[0], -1)
        result: Array = np.einsum("rsk,si->rik", core, inner, optimize=True).reshape(rank, columns)
        return result


@dataclass(frozen=True, slots=True, eq=False)
class ComputedMatrix:
    """A matrix that `make` computes from others."""

    shape: tuple[int, int]
    make: Callable[[], Array]

    def whole(self) -> Array:
        """The whole matrix, held while it is in use."""
        return RECENT.get(self, -1, self.make)

    def rows(self, wanted: range) -> Array:
        """Some of its rows."""
        return self.whole()[wanted.start : wanted.stop]


@dataclass(frozen=True, slots=True, eq=False)
class Transposed:
    """Another matrix transposed."""

    inner: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Columns and rows of the other."""
        return self.inner.shape[1], self.inner.shape[0]

    def whole(self) -> Array:
        """The whole matrix, held while it is in use."""
        return self.inner.whole().T

    def rows(self, wanted: range) -> Array:
        """Columns of the other."""
        return self.inner.whole()[:, wanted.start : wanted.stop].T


@dataclass(frozen=True, slots=True, eq=False)
class FirstColumns:
    """The first columns of another matrix."""

    inner: Left
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """The other's rows, and `width` columns."""
        return self.inner.shape[0], self.width

    def whole(self) -> Array:
        """The whole matrix, held while it is in use."""
        return self.inner.whole()[:, : self.width]

    def rows(self, wanted: range) -> Array:
        """Some of its rows."""
        return self.inner.rows(wanted)[:, : self.width]
