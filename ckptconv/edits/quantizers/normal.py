"""bitsandbytes' NF4: blocks of 64 elements, across rows, are multiplied by the reciprocal of their largest absolute
value, and each element becomes the number of the nearest of 16 values. `nested` does the same with the largest
values.

Sources: bitsandbytes 0.50, functional.py (`quantize_4bit`, `create_dynamic_map`), backends/default/ops.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ckptconv.edits.quantized.elements import NF4
from ckptconv.edits.quantizers.rules import ByLargest

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType

BLOCK = 64

_FEW = 16
"""Up to so many bounds are compared one by one; a binary search takes ten times as long for them."""

SMALLEST = 1e-38
"""Smaller sizes count as this, so that their reciprocal is finite."""


def nearest(values: Array, sizes: Array, table: Array) -> Array:
    """For each value, over its row's size, the number of the nearest value in a table; of two as near, the first."""
    import numpy as np

    f32 = np.float32
    scaled = values * (f32(1) / np.maximum(sizes, f32(SMALLEST)))[..., None]
    bounds = (table[:-1] + table[1:]) / f32(2)
    if len(bounds) > _FEW:
        result: Array = np.searchsorted(bounds, scaled).astype(np.uint8)
        return result
    result = np.zeros(values.shape, np.uint8)
    for bound in bounds:
        result += scaled > bound
    return result


class Normal(ByLargest):
    """The largest absolute value of each block, and 4-bit codes, the first of two in the high bits."""

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        """The largest absolute value."""
        return (measures[..., 0],)

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        """The codes as bytes, and their values."""
        import numpy as np

        table = np.array(NF4, np.float32)
        result = nearest(values, shared[0], table)
        return result[..., 0::2] << 4 | result[..., 1::2], table[result] * shared[0][..., None]


@lru_cache(maxsize=1)
def dynamic_map() -> Array:
    """The values of the codes for sizes: 0, 1, and with both signs, for each power of ten from 1e-6 to 1, the middles
    of 1, 2, 4, … 64 equal parts of its last nine tenths. Each step is rounded to F32, as in torch.
    """
    import numpy as np

    f32, found = np.float32, np.array([0, 1], np.float32)
    for power in range(7):
        middles = _edges(1 << power)
        middles = (middles[:-1] + middles[1:]) / f32(2) * f32(10.0 ** (power - 6))
        found = np.concatenate([found, middles, -middles])
    return np.sort(found)


def _edges(parts: int) -> Array:
    """From 0.1 to 1, as torch.linspace computes it: from the nearer end, multiplied and added in one step."""
    import numpy as np

    start, index = np.float32(0.1), np.arange(parts + 1)
    step = np.float64((np.float32(1) - start) / np.float32(parts))
    low, high = np.float64(start) + step * index, 1 - step * (parts - index)
    return np.where(index < (parts + 1) // 2, low, high).astype(np.float32)
