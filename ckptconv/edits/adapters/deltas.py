"""What an adapter adds to a weight, computed in F64, one rectangle at a time.

The weight is a matrix: its first dimension, and all others as one. A delta has its shape (rows, columns):

    Whole       a tensor of that size
    LowRank     left (rows × r) · right (r × columns)         LoRA, LoCon; with a core between them, Tucker's
    Stacked     left · right for each matrix of a stack       experts
    Hadamard    first ∘ second, element by element            LoHa
    Kronecker   first ⊗ second                                LoKr
    Scaled      another with each row or column scaled        VeRA, DeLoRA

F64, because BLAS adds up products in an order of its own: the differences that this makes in F64 disappear when the
sum is rounded to the weight's type, so that every machine writes the same bytes.

Factors are small compared with the weight. The left one is read by blocks of rows; the right one is held in memory
while the weight is read, and no longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ckptconv.edits.adapters.matrices import RECENT

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.edits.adapters.matrices import Factor, Left, Matrix

SINGLE_THREADED = 1 << 18
"""Up to so many multiplications, OpenBLAS starts no threads of its own. These would wait for each other longer than
they compute, since there is already one thread for each tensor.
"""


def product(left: Array, right: Array) -> Array:
    """The product of two matrices, in parts so small that BLAS starts no threads."""
    import numpy as np

    result = np.empty((len(left), right.shape[1]), np.float64)
    high = max(1, SINGLE_THREADED // max(16 * left.shape[1], 1))
    for row in range(0, len(left), high):
        part = left[row : row + high]
        step = max(16, SINGLE_THREADED // max(part.size, 1))
        for at in range(0, right.shape[1], step):
            result[row : row + high, at : at + step] = part @ right[:, at : at + step]
    return result


class Delta(Protocol):
    """A matrix of numbers to add."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def rectangle(self, rows: range, columns: range) -> Array:
        """A rectangle of it, as F64."""


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A tensor as it is."""

    values: Factor

    @property
    def shape(self) -> tuple[int, int]:
        """The tensor's."""
        return self.values.shape

    def rectangle(self, rows: range, columns: range) -> Array:
        """Its elements."""
        if len(rows) == 1:  # the row may be longer than what can be held
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
        """The product of some rows and some columns."""
        return product(self.left.rows(rows), self.right.whole()[:, columns.start : columns.stop])


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """left · right for each of `count` matrices, stored one below the other in both; each product is a row."""

    left: Factor
    right: Factor
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        """The number of matrices, and the elements of each."""
        return self.count, self.left.shape[0] // self.count * self.right.shape[1]

    def rectangle(self, rows: range, columns: range) -> Array:
        """Part of each of some matrices."""
        import numpy as np

        height, width = self.left.shape[0] // self.count, self.right.shape[1]
        first, last = columns.start // width, -(-columns.stop // width)
        result = np.empty((len(rows), len(columns)), np.float64)
        for at, number in enumerate(rows):
            left = self.left.rows(range(number * height + first, number * height + last))
            lines = (left @ self._right(number)).reshape(-1)
            result[at] = lines[columns.start - first * width : columns.stop - first * width]
        return result

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
        """That of both factors."""
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
        """The products of both factors' sizes."""
        (high, wide), (rows, columns) = self.first.shape, self.second.shape
        return high * rows, wide * columns

    def rectangle(self, rows: range, columns: range) -> Array:
        """Element (i, j) is the first factor's at (i // rows, j // columns) times the second's at the remainders."""
        import numpy as np

        many, width = self.second.shape
        first = RECENT.get(self, 0, lambda: self._whole(self.first))
        second = RECENT.get(self, 1, lambda: self._whole(self.second))
        row, column = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
        result: Array = first[np.ix_(row // many, column // width)]
        result *= second[np.ix_(row % many, column % width)]
        return result

    def _whole(self, part: Whole | LowRank) -> Array:
        rows, columns = part.shape
        return part.rectangle(range(rows), range(columns))


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Another delta with every row (along 0) or every column (1) multiplied by a number."""

    inner: Delta
    numbers: Factor
    along: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """That of the other."""
        return self.inner.shape

    def rectangle(self, rows: range, columns: range) -> Array:
        """The product."""
        result, numbers = self.inner.rectangle(rows, columns), self.numbers.whole().reshape(-1)
        result *= numbers[rows.start : rows.stop, None] if self.along == 0 else numbers[columns.start : columns.stop]
        return result
