"""What an adapter adds to a weight, a rectangle at a time, in F64.

The weight is a matrix: its first dimension, and all others as one. Of shape (rows, columns):

    Whole       a tensor of that size
    LowRank     left (rows × r) · right (r × columns)         LoRA, LoCon; with a core between them, Tucker's
    Stacked     left · right of each matrix of a stack      experts
    Hadamard    first ∘ second, element by element            LoHa
    Kronecker   first ⊗ second                                LoKr

F64, since the products are summed in an order that is BLAS' own: what that changes in F64 is gone once the sum is
rounded to the weight's type, so that every machine writes the same bytes.

Factors are small beside the weight. That on the left is read by blocks of rows; what is on the right is held for the
weight that is being read, and no other.
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


HELD = 16 << 20
"""Bytes of arrays that a thread holds; one that is larger is held alone."""

ALONE = 1 << 18
"""Multiplications up to which OpenBLAS uses no threads of its own, which wait for each other longer than they compute:
there is one for each tensor already.
"""

LEFT_BLOCK = 1 << 17
"""Elements of a factor on the left that are read at a time."""


class Delta(Protocol):
    """Numbers in rows and columns."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def rectangle(self, rows: range, columns: range) -> Array:
        """A part of it, as F64."""


class _Recent(local):
    """The last few arrays that this thread made: what the weight needs that it reads, and no more."""

    def __init__(self) -> None:
        self._count = 0
        self._reader: object = None
        self._made: OrderedDict[tuple[int, int], tuple[object, Array]] = OrderedDict()

    def turn_to(self, reader: object) -> None:
        """Another weight is read: what was held for the one before is given up."""
        if self._reader is not reader:
            self._reader, self._count = reader, 0
            self._made.clear()

    def get(self, owner: object, number: int, make: Callable[[], Array]) -> Array:
        """The array that `make` gives for that number of the owner's."""
        key = (id(owner), number)
        if key not in self._made:
            made = make()
            self._made[key] = (owner, made)  # the owner is held too, so that its id stays its own
            self._count += made.nbytes
            while self._count > HELD and len(self._made) > 1:
                self._count -= self._made.popitem(last=False)[1][1].nbytes
        self._made.move_to_end(key)
        return self._made[key][1]


RECENT = _Recent()


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A tensor as a matrix. turned: it is stored as columns × rows."""

    tensor: LazyTensor
    shape: tuple[int, int]
    turned: bool = False

    def block(self, rows: range) -> Array:
        """Some of its rows, as F64."""
        import numpy as np

        from ckptconv.core.arrays import from_bytes

        dtype, width = self.tensor.info.dtype, self.shape[1]
        unit = dtype.bits // 8
        if not self.turned:
            data = self.tensor.read(rows.start * width * unit, rows.stop * width * unit)
            return from_bytes(data, dtype, (len(rows), width)).astype(np.float64)
        made = np.empty((len(rows), width), np.float64)
        for column in range(width):
            start = column * self.shape[0]
            data = self.tensor.read((start + rows.start) * unit, (start + rows.stop) * unit)
            made[:, column] = from_bytes(data, dtype, len(rows)).astype(np.float64)
        return made

    def part(self, row: int, columns: range) -> Array:
        """Some columns of a row of what is not turned, as F64."""
        import numpy as np

        from ckptconv.core.arrays import from_bytes

        dtype, start = self.tensor.info.dtype, row * self.shape[1]
        unit = dtype.bits // 8
        data = self.tensor.read((start + columns.start) * unit, (start + columns.stop) * unit)
        return from_bytes(data, dtype, (1, len(columns))).astype(np.float64)

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
class Whole:
    """A tensor as it is."""

    values: Factor

    @property
    def shape(self) -> tuple[int, int]:
        """That of the tensor."""
        return self.values.shape

    def rectangle(self, rows: range, columns: range) -> Array:
        """Its elements."""
        if len(rows) == 1:  # a part of a row that may be longer than what is held
            return self.values.part(rows.start, columns)
        return self.values.rows(rows)[:, columns.start : columns.stop]


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """left · right."""

    left: Factor
    right: Factor | Cored

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of the left factor, columns of the right one."""
        return self.left.shape[0], self.right.shape[1]

    def rectangle(self, rows: range, columns: range) -> Array:
        """A product of rows and columns."""
        import numpy as np

        left, right = self.left.rows(rows), self.right.whole()
        made = np.empty((len(rows), len(columns)), np.float64)
        step = max(16, ALONE // max(left.size, 1))
        for at in range(columns.start, columns.stop, step):
            end = min(at + step, columns.stop)
            made[:, at - columns.start : end - columns.start] = left @ right[:, at:end]
        return made


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """left · right of each of `count` matrices, one below the other in both; each matrix is a row of the product."""

    left: Factor
    right: Factor
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        """The matrices, and the elements of each."""
        return self.count, self.left.shape[0] // self.count * self.right.shape[1]

    def rectangle(self, rows: range, columns: range) -> Array:
        """A part of each of some matrices."""
        import numpy as np

        height, width = self.left.shape[0] // self.count, self.right.shape[1]
        first, last = columns.start // width, -(-columns.stop // width)
        made = np.empty((len(rows), len(columns)), np.float64)
        for at, number in enumerate(rows):
            left = self.left.rows(range(number * height + first, number * height + last))
            lines = (left @ self._right(number)).reshape(-1)
            made[at] = lines[columns.start - first * width : columns.stop - first * width]
        return made

    def _right(self, number: int) -> Array:
        rank = self.right.shape[0] // self.count
        return RECENT.get(self, number, lambda: self.right.block(range(number * rank, (number + 1) * rank)))


@dataclass(frozen=True, slots=True, eq=False)
class Hadamard:
    """first ∘ second."""

    first: LowRank
    second: LowRank

    @property
    def shape(self) -> tuple[int, int]:
        """That of both."""
        return self.first.shape

    def rectangle(self, rows: range, columns: range) -> Array:
        """The product, element by element."""
        return self.first.rectangle(rows, columns) * self.second.rectangle(rows, columns)


@dataclass(frozen=True, slots=True, eq=False)
class Kronecker:
    """first ⊗ second."""

    first: Whole | LowRank
    second: Whole | LowRank

    @property
    def shape(self) -> tuple[int, int]:
        """The product of both."""
        (high, wide), (rows, columns) = self.first.shape, self.second.shape
        return high * rows, wide * columns

    def rectangle(self, rows: range, columns: range) -> Array:
        """Element (i, j) is the first factor's at (i // rows, j // columns) times the second's at the remainders."""
        import numpy as np

        many, width = self.second.shape
        first = RECENT.get(self, 0, lambda: self._all(self.first))
        second = RECENT.get(self, 1, lambda: self._all(self.second))
        row, column = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
        made: Array = first[np.ix_(row // many, column // width)]
        made *= second[np.ix_(row % many, column % width)]
        return made

    def _all(self, part: Whole | LowRank) -> Array:
        rows, columns = part.shape
        return part.rectangle(range(rows), range(columns))
