"""Changes that multiply a weight; `merged` has the others.

    Rotate    W · R, R of blocks along the diagonal, or a product of several such    OFT, BOFT; of rows: RoAd, diag-OFT
    Through   W + scale · (W · left) · right                                         HRA, GLoRA
    Weigh     W + scale · W ∘ Δ                                                      HiRA

A block of columns takes neighbouring elements of a row. A block of rows takes several rows, which are held in memory;
so is the whole weight where a butterfly mixes all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.edits.adapters.deltas import SINGLE_THREADED, product
from ckptconv.edits.adapters.matrices import RECENT
from ckptconv.edits.adapters.merged import TILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.arrays import Array
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.adapters.deltas import Delta
    from ckptconv.edits.adapters.matrices import Matrix
    from ckptconv.edits.adapters.merged import Values


@dataclass(frozen=True, slots=True, eq=False)
class Rotate:
    """Every row (along 1) or every column (0) of the weight, multiplied by matrices in blocks of `size` elements.

    make:  the matrices, stages × blocks × size × size; a single block is used for all.
    high:  how many rows share a matrix, if rows have matrices of their own; else 0.
    order: gives, for a stage and a number of elements, their order for multiplying; they are sorted back after that.
    """

    size: int
    make: Callable[[], Array]
    tensors: tuple[LazyTensor, ...] = ()
    along: int = 1
    high: int = 0
    order: Callable[[int, int], Array] | None = None

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """The product."""
        if self.along == 0:
            return self._rotate_columns(before, shape, rows, columns)
        wide = self._blocks(columns, shape[1])
        result = before(rows, wide)
        if not self.high:
            result = self._rotate(result, wide.start // self.size)
        else:
            for number in range(rows.start // self.high, -(-rows.stop // self.high)):
                first, last = number * self.high - rows.start, (number + 1) * self.high - rows.start
                part = slice(max(first, 0), min(last, len(rows)))
                result[part] = self._rotate(result[part], number, alone=True)
        return result[:, columns.start - wide.start : columns.stop - wide.start]

    def _rotate_columns(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        import numpy as np

        wide = self._blocks(rows, shape[0])
        step = self.size if self.order is None else shape[0]
        result = []
        for first in range(wide.start, wide.stop, step):
            inside = range(first, first + step)

            def rotated(inside: range = inside) -> Array:
                return self._rotate(_read_rows(before, shape, inside, columns).T, inside.start // self.size).T

            group = RECENT.get(self, first * shape[1] + columns.start, rotated)
            result.append(group[max(rows.start - first, 0) : rows.stop - first])
        return np.concatenate(result)

    def _blocks(self, wanted: range, count: int) -> range:
        """The elements of all blocks that have some of the wanted ones."""
        if self.order is not None:
            return range(count)
        return range(wanted.start // self.size * self.size, -(-wanted.stop // self.size) * self.size)

    def _rotate(self, values: Array, first: int, *, alone: bool = False) -> Array:
        """Rows of values that start with block `first`, times its matrix and the following ones;

        `alone`: times its matrix only.
        """
        import numpy as np

        for stage, matrices in enumerate(RECENT.get(self, -1, self.make)):
            count = 1 if alone else values.shape[1] // self.size
            used = matrices if len(matrices) == 1 else matrices[first : first + count]
            order = None if self.order is None else self.order(stage, values.shape[1])
            in_order = values if order is None else values[:, order]
            blocks = _products(in_order.reshape(len(values), -1, self.size).transpose(1, 0, 2), used)
            values = blocks.transpose(1, 0, 2).reshape(len(values), -1)
            if order is not None:
                back = np.empty_like(values)
                back[:, order] = values
                values = back
        return values


def _products(blocks: Array, matrices: Array) -> Array:
    """The product of each block with its matrix, or with the only one."""
    import numpy as np

    if blocks[0].size * matrices.shape[1] <= SINGLE_THREADED:
        result: Array = blocks @ matrices
        return result
    return np.stack([product(block, matrices[number % len(matrices)]) for number, block in enumerate(blocks)])


def _read_rows(before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
    """Some columns of several rows; parts of rows are read row by row."""
    import numpy as np

    if len(columns) == shape[1]:
        return before(rows, columns)
    return np.concatenate([before(range(row, row + 1), columns) for row in rows])


@dataclass(frozen=True, slots=True, eq=False)
class Through:
    """W + scale · (W · left) · right, with factors inputs × r and r × inputs.

    spread: how many neighbouring columns belong to one input.
    """

    left: Matrix
    right: Matrix
    scale: float
    spread: int = 1
    tensors: tuple[LazyTensor, ...] = ()

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """The sum."""
        import numpy as np

        result, left, right = before(rows, columns), self.left.whole(), self.right.whole()
        middle = np.zeros((len(rows), self.spread, left.shape[1]), np.float64)
        step = max(1, TILE // self.spread) * self.spread
        for at in range(0, shape[1], step):
            part = range(at, min(at + step, shape[1]))
            values = result if len(columns) == shape[1] and len(part) == shape[1] else before(rows, part)
            middle += self._projected(values, left[part.start // self.spread : part.stop // self.spread])
        first, last = columns.start // self.spread, -(-columns.stop // self.spread)
        change = product(middle.reshape(-1, left.shape[1]), right[:, first:last])
        change = change.reshape(len(rows), self.spread, -1).transpose(0, 2, 1).reshape(len(rows), -1)
        start = columns.start - first * self.spread
        result += self.scale * change[:, start : start + len(columns)]
        return result

    def _projected(self, values: Array, left: Array) -> Array:
        """Values of some inputs times those inputs' rows of `left`, in parts so small that BLAS starts no threads."""
        import numpy as np

        inputs = values.reshape(len(values), -1, self.spread).transpose(0, 2, 1)
        result = np.zeros((*inputs.shape[:2], left.shape[1]), np.float64)
        step = max(16, SINGLE_THREADED // max(result.size, 1))
        for at in range(0, len(left), step):
            result += inputs[:, :, at : at + step] @ left[at : at + step]
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Weigh:
    """W + scale · W ∘ Δ."""

    delta: Delta
    scale: float
    tensors: tuple[LazyTensor, ...] = ()

    def apply(self, before: Values, shape: tuple[int, int], rows: range, columns: range) -> Array:
        """The sum."""
        result = before(rows, columns)
        factors = self.delta.rectangle(rows, columns)
        factors *= self.scale
        factors += 1
        result *= factors
        return result
