"""bitsandbytes' NF4: 64 elements, which run on over the ends of rows, are multiplied by the reciprocal of the largest
size among them, and each becomes the number of the nearest of 16 values. (`nested` does likewise with the sizes.)

Sources: bitsandbytes 0.50, functional.py (`quantize_4bit`, `create_dynamic_map`), backends/default/ops.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ckptconv.edits.quantized.elements import NF4
from ckptconv.edits.quantizers.rules import BySize

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType

BLOCK = 64

_FEW = 16
"""Bounds that are compared one by one: of these, a search takes ten times as long."""

SMALLEST = 1e-38
"""What a size counts as that is less, so that its reciprocal is finite."""


def nearest(values: Array, sizes: Array, table: Array) -> Array:
    """The numbers of the nearest values of a table, of two as near the first, of rows that have a size each."""
    import numpy as np

    f32 = np.float32
    scaled = values * (f32(1) / np.maximum(sizes, f32(SMALLEST)))[..., None]
    bounds = (table[:-1] + table[1:]) / f32(2)
    if len(bounds) > _FEW:
        made: Array = np.searchsorted(bounds, scaled).astype(np.uint8)
        return made
    made = np.zeros(values.shape, np.uint8)
    for bound in bounds:
        made += scaled > bound
    return made


class Normal(BySize):
    """The largest size, and codes of 4 bits, the first of two in the high ones."""

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        """The largest size."""
        return (measures[..., 0],)

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        """Bytes, and what they stand for."""
        import numpy as np

        table = np.array(NF4, np.float32)
        made = nearest(values, shared[0], table)
        return made[..., 0::2] << 4 | made[..., 1::2], table[made] * shared[0][..., None]


@lru_cache(maxsize=1)
def dynamic_map() -> Array:
    """What the codes of sizes stand for: of the powers of ten from 1e-6 to 1, the middles of 1, 2, 4, … 64 equal parts
    of their last nine tenths, with both signs; 0 and 1. Each step is rounded to F32, as torch rounds it.
    """
    import numpy as np

    f32, found = np.float32, np.array([0, 1], np.float32)
    for power in range(7):
        middles = _edges(1 << power)
        middles = (middles[:-1] + middles[1:]) / f32(2) * f32(10.0 ** (power - 6))
        found = np.concatenate([found, middles, -middles])
    return np.sort(found)


def _edges(parts: int) -> Array:
    """From 0.1 to 1, as torch.linspace has them: counted from the nearer end, multiplied and added at once."""
    import numpy as np

    start, index = np.float32(0.1), np.arange(parts + 1)
    step = np.float64((np.float32(1) - start) / np.float32(parts))
    low, high = np.float64(start) + step * index, 1 - step * (parts - index)
    return np.where(index < (parts + 1) // 2, low, high).astype(np.float32)
