"""The tensors that an adapter has for one module, as matrices to multiply; with limits on memory and time."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod
from typing import TYPE_CHECKING

from ckptconv.edits.adapters.deltas import LowRank
from ckptconv.edits.adapters.matrices import ComputedMatrix, Factor, Transposed
from ckptconv.edits.adapters.merged import TILE
from ckptconv.errors import EditError, LimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.core.arrays import Array
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.adapters.matrices import Left, Matrix

MOST_HELD = 1 << 25
"""Elements of a factor that is held in memory: rank 512 of the widest models takes 27,000,000."""

MOST_WORK = 1 << 36
"""Multiplications before the first element of a weight is known: a rotation of 4096 × 4096 takes as many."""


@dataclass(frozen=True)
class Factors:
    """The tensors of one module.

    name:  the module's name in the adapter, for errors.
    parts: its tensors, by role.
    """

    name: str
    parts: Mapping[str, LazyTensor]

    def fail(self, problem: str, hint: str = "the adapter may be for another base, or damaged") -> EditError:
        """The error for a problem with this module."""
        return EditError(f"{self.name!r}: {problem}", hint=hint)

    def misfit(self, shape: tuple[int, ...], what: str) -> EditError:
        """The error for parts that do not fit a weight of that shape; `what` says what the adapter has."""
        return self.fail(f"the base's weight is of shape {list(shape)}, and {what}")

    def tensor(self, part: str) -> LazyTensor:
        """A part. Raises EditError where there is none."""
        if part not in self.parts:
            raise self.fail(f"{part} is missing")
        return self.parts[part]

    def factor_of(self, part: str, size: tuple[int, int]) -> Factor:
        """A part as a matrix of that size. Raises EditError where it has another number of elements."""
        tensor = self.tensor(part)
        if tensor.info.numel != prod(size):
            raise self.fail(f"{part} is of shape {list(tensor.info.shape)}, where {prod(size):,} elements are due")
        return Factor(tensor, size)

    def vector(self, part: str, count: int) -> Factor:
        """A part that is a vector of `count` numbers, which are held in memory."""
        self.check_held(count)
        return self.factor_of(part, (count, 1))

    def number(self, part: str) -> float:
        """A part that is a single number; reads it."""
        tensor = self.tensor(part)
        if tensor.info.numel != 1:
            raise self.fail(f"{part} has {tensor.info.numel:,} elements, and not one")
        value = float(tensor.numpy().reshape(-1)[0])
        if not isfinite(value):
            raise self.fail(f"{part} is {value}")
        return value

    def computed(self, shape: tuple[int, int], make: Callable[[], Array]) -> ComputedMatrix:
        """A matrix that is computed by `make`, and held in memory."""
        self.check_held(prod(shape))
        return ComputedMatrix(shape, make)

    def matrix(self, part: str) -> Factor:
        """A part as a matrix: its first dimension, and all others as one."""
        shape = self.tensor(part).info.shape
        if len(shape) < 2 or not prod(shape):
            raise self.fail(f"{part} is of shape {list(shape)}, which is not a matrix")
        return self.factor_of(part, (shape[0], prod(shape[1:])))

    def transposed(self, part: str) -> Factor:
        """A part as a matrix, transposed."""
        matrix = self.matrix(part)
        return Factor(matrix.tensor, (matrix.shape[1], matrix.shape[0]), transposed=True)

    def low_rank(self, left: Left, right: Matrix) -> LowRank:
        """The product of two factors. Raises EditError if their ranks differ, LimitError if they are too large."""
        if left.shape[1] != right.shape[0]:
            raise self.fail(f"its factors are of ranks {left.shape[1]} and {right.shape[0]}")
        self.check_held(prod(right.shape))
        if isinstance(left, ComputedMatrix | Transposed):
            self.check_held(prod(left.shape))
        self.check_held(left.shape[1] * min(left.shape[0], max(1, TILE // right.shape[1])))  # the rows of a tile
        return LowRank(left, right)

    def check_held(self, count: int) -> None:
        """Raise LimitError for a factor that is too large to hold in memory."""
        if count > MOST_HELD:
            raise LimitError(
                f"{self.name!r}: a factor has {count:,} elements, and at most {MOST_HELD:,} are held",
                hint="do not trust it: no honest rank needs that",
            )

    def check_work(self, count: int) -> None:
        """Raise LimitError for a computation that would take too long."""
        if count > MOST_WORK:
            raise LimitError(
                f"{self.name!r}: it takes {count:,} multiplications to begin with, and at most {MOST_WORK:,} are done",
                hint="do not trust it: no honest rank, or block, needs that",
            )
