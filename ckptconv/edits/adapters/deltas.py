"""What an adapter adds to a weight, a rectangle at a time, in F64.

The weight is a matrix: its first dimension, and all others as one. Of shape (rows, columns):

    Whole       a tensor of that size
    LowRank     left (rows × r) · right (r × columns)         LoRA, LoCon; with a core between them, Tucker's
    Stacked     left · right of each matrix of a stack      experts
    Hadamard    first ∘ second, element by element            LoHa
    Kronecker   first ⊗ second                                LoKr
    Scaled      another, each row or column times a number    VeRA, DeLoRA

F64, since the products are summed in an order that is BLAS' own: what that changes in F64 is gone once the sum is
rounded to the weight's type, so that every machine writes the same bytes.

Factors are small beside the weight. That on the left is read by blocks of rows; what is on the right is held for the
weight that is being read, and no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ckptconv.edits.adapters.matrices import RECENT

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.edits.adapters.matrices import Factor, Left, Matrix

ALONE = 1 << 18
"""Multiplications up to which OpenBLAS uses no threads of its own, which wait for each other longer than they compute:
there is one for each tensor already.
"""


def product(left: Array, right: Array) -> Array:
    """Of two matrices, in parts for which BLAS takes no threads."""
    import numpy as np

    made = np.empty((len(left), right.shape[1]), np.float64)
    high = max(1, ALONE // max(16 * left.shape[1], 1))
    for row in range(0, len(left), high):
        part = left[row : row + high]
        step = max(16, ALONE // max(part.size, 1))
        for at in range(0, right.shape[1], step):
            made[row : row + high, at : at + step] = part @ right[:, at : at + step]
    return made


class Delta(Protocol):
    """Numbers in rows and columns."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def rectangle(self, rows: range, columns: range) -> Array:
        """A part of it, as F64."""


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

    left: Left
    right: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of the left factor, columns of the right one."""
        return self.left.shape[0], self.right.shape[1]

    def rectangle(self, rows: range, columns: range) -> Array:
        """A product of rows and columns."""
        return product(self.left.rows(rows), self.right.whole()[:, columns.start : columns.stop])


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


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Another with every row (along 0) or every column (1) times a number."""

    inner: Delta
    numbers: Factor
    along: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """That of the other."""
        return self.inner.shape

    def rectangle(self, rows: range, columns: range) -> Array:
        """The product."""
        made, numbers = self.inner.rectangle(rows, columns), self.numbers.whole().reshape(-1)
        made *= numbers[rows.start : rows.stop, None] if self.along == 0 else numbers[columns.start : columns.stop]
        return made
