"""Tensors with every element multiplied by a factor, computed while they are read.

Products are computed in F64 and rounded once, to the tensor's type or the one that it is cast to.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Protocol

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo, depends_of
from ckptconv.edits.computed import BLOCK, Computed
from ckptconv.edits.rounding import Loss, cast_array, rounded_once

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array

FLOATS = (DType.F64, DType.F32, DType.F16, DType.BF16)
"""The types in which torch computes."""


class Factors(Protocol):
    """What the elements of a tensor are multiplied by."""

    def of(self, first: int, last: int) -> Array:
        """The factors of the elements [first, last), or one for all of them, in F64."""


@dataclass
class ProductReader(Computed):
    """A reader of a tensor with every element multiplied by its factor. `parts`: what the factors come of."""

    factors: Factors
    parts: tuple[LazyTensor, ...]

    def cast_to(self, dtype: DType) -> LazyTensor:
        """The same weight, rounded to another type instead."""
        return product(self.source, self.factors, self.parts, dtype)

    def __call__(self, start: int, stop: int) -> memoryview:
        unit = self.dtype.bits // 8
        first, last = start // unit, -(-stop // unit)
        result = b"".join(self._block(low, min(low + BLOCK, last)) for low in range(first, last, BLOCK))
        return memoryview(result)[start - first * unit : stop - first * unit]

    def _block(self, first: int, last: int) -> bytes:
        import numpy as np

        from ckptconv.core.arrays import to_bytes

        before = wide(self.source, first, last)
        with np.errstate(all="ignore"):  # what overflows is counted below
            values = before * self.factors.of(first, last)
        lost = int(np.count_nonzero(np.isfinite(before) & ~np.isfinite(values)))
        if self.dtype is self.source.info.dtype:
            result, overflowed = rounded_once(values, self.dtype)
            loss = Loss(overflowed)
        else:
            result, loss = cast_array(values, DType.F64, self.dtype)
        loss.overflowed += lost
        self.note(first, last, loss)
        return to_bytes(result, self.dtype)


def product(source: LazyTensor, factors: Factors, parts: tuple[LazyTensor, ...], dtype: DType) -> LazyTensor:
    """The tensor times `factors`, as `dtype`. Reads nothing. `parts`: what the factors come of."""
    info = TensorInfo.of(dtype, source.info.shape)
    return LazyTensor(info, ProductReader(source, dtype, factors, parts), depends=depends_of([source, *parts]))


def index_along(axis: int, shape: tuple[int, ...], first: int, last: int) -> Array:
    """The index of each element [first, last) along a dimension."""
    import numpy as np

    inner = prod(shape[axis + 1 :])
    return np.arange(first, last) // inner % shape[axis]


def wide(tensor: LazyTensor, first: int, last: int) -> Array:
    """Elements [first, last) as F64."""
    import numpy as np

    return tensor.elements(first, last).astype(np.float64)
