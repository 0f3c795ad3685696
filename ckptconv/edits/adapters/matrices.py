"""The matrices that an adapter's tensors are, in F64: read by blocks of rows, or held for the weight that is read.

Factor   a tensor as it is
Cored    columns of a Tucker decomposition
Made     computed of others, and held
Turned   one with its rows and columns exchanged, held
Narrow   the first columns of one
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
"""Bytes of small arrays that a thread holds, and of large ones; one that is larger is held alone."""

LEFT_BLOCK = 1 << 17
"""Elements of a factor on the left that are read at a time."""


class _Recent(local):
    """The last few arrays that this thread made: what the weight needs that it reads, and no more.

    Large ones, which are needed for all of a weight, are held apart, so that the many small ones do not push them out.
    """

    def __init__(self) -> None:
        self._reader: object = None
        self._small, self._large = _Shelf(HELD), _Shelf(MOST_BYTES)

    def turn_to(self, reader: object) -> None:
        """Another weight is read: what was held for the one before is given up."""
        if self._reader is not reader:
            self._reader = reader
            self._small, self._large = _Shelf(HELD), _Shelf(MOST_BYTES)

    def get(self, owner: object, number: int, make: Callable[[], Array]) -> Array:
        """The array that `make` gives for that number of the owner's."""
        key = (id(owner), number)
        for shelf in (self._small, self._large):
            if (found := shelf.get(key)) is not None:
                return found
        made = make()
        (self._large if made.nbytes > HELD // 2 else self._small).put(key, owner, made)
        return made


class _Shelf:
    """Arrays of so many bytes together, or a single one; the one that was needed longest ago goes first."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0
        self._made: OrderedDict[tuple[int, int], tuple[object, Array]] = OrderedDict()

    def get(self, key: tuple[int, int]) -> Array | None:
        if key not in self._made:
            return None
        self._made.move_to_end(key)
        return self._made[key][1]

    def put(self, key: tuple[int, int], owner: object, made: Array) -> None:
        self._made[key] = (owner, made)  # the owner is held too, so that its id stays its own
        self._count += made.nbytes
        while self._count > self._most and len(self._made) > 1:
            self._count -= self._made.popitem(last=False)[1][1].nbytes


RECENT = _Recent()


class Matrix(Protocol):
    """What stands on the right of a product."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def whole(self) -> Array:
        """All of it, held while it is in use."""


class Left(Matrix, Protocol):
    """What stands on the left of one."""

    def rows(self, wanted: range) -> Array:
        """Some of its rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A tensor as a matrix. turned: it is stored as columns × rows."""

    tensor: LazyTensor
    shape: tuple[int, int]
    turned: bool = False

    def block(self, rows: range) -> Array:
        """Some of its rows, as F64."""
        import numpy as np

        high, width = self.shape
        if not self.turned:
            found = self.tensor.elements(rows.start * width, rows.stop * width)
            return found.astype(np.float64).reshape(len(rows), width)
        made = np.empty((len(rows), width), np.float64)
        for column in range(width):
            made[:, column] = self.tensor.elements(column * high + rows.start, column * high + rows.stop)
        return made

    def part(self, row: int, columns: range) -> Array:
        """Some columns of a row of what is not turned, as F64."""
        import numpy as np

        start = row * self.shape[1]
        return self.tensor.elements(start + columns.start, start + columns.stop).astype(np.float64).reshape(1, -1)

    def whole(self) -> Array:
        """All of it, held while it is in use."""
        return RECENT.get(self, -1, self._read)

    def _read(self) -> Array:
        return self.block(range(self.shape[0]))

    def rows(self, wanted: range) -> Array:
        """Some of its rows; the block that they are in is held."""
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
    """Columns of a Tucker decomposition: the core (r × s × …) times its factor (s × inputs), as r × (inputs × …)."""

    core: Factor
    inner: Factor
    turned: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rank, and columns of the weight."""
        return self.core.shape[0], self.core.shape[1] // self.inner.shape[0] * self.inner.shape[1]

    def whole(self) -> Array:
        """All of it, held while it is in use."""
        return RECENT.get(self, -1, self._made)

    def _made(self) -> Array:
        import numpy as np

        rank, columns = self.shape
        inner = self.inner.whole()
        core = self.core.whole().reshape(rank, inner.shape[0], -1)
        made: Array = np.einsum("rsk,si->rik", core, inner, optimize=True).reshape(rank, columns)
        return made


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A matrix that is computed of others."""

    shape: tuple[int, int]
    make: Callable[[], Array]

    def whole(self) -> Array:
        """All of it, held while it is in use."""
        return RECENT.get(self, -1, self.make)

    def rows(self, wanted: range) -> Array:
        """Some of its rows."""
        return self.whole()[wanted.start : wanted.stop]


@dataclass(frozen=True, slots=True, eq=False)
class Turned:
    """Rows for columns, and the other way round."""

    inner: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Columns and rows of the other."""
        return self.inner.shape[1], self.inner.shape[0]

    def whole(self) -> Array:
        """All of it, held while it is in use."""
        return self.inner.whole().T

    def rows(self, wanted: range) -> Array:
        """Columns of the other."""
        return self.inner.whole()[:, wanted.start : wanted.stop].T


@dataclass(frozen=True, slots=True, eq=False)
class Narrow:
    """The first columns of another."""

    inner: Left
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of the other, and so many columns."""
        return self.inner.shape[0], self.width

    def whole(self) -> Array:
        """All of it, held while it is in use."""
        return self.inner.whole()[:, : self.width]

    def rows(self, wanted: range) -> Array:
        """Some of its rows."""
        return self.inner.rows(wanted)[:, : self.width]
