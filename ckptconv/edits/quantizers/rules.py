"""How schemes compute scales and codes (`schemes` says what is stored), each step in F32 unless it says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.edits.rounding import cast_array

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array

LARGEST = 448.0
"""Of F8_E4M3."""

EPSILON = {DType.F32: 2.0**-23, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}

SMALLEST_STEP = 1e-7
"""Of MLX's scales."""


def _cast(values: Array, dtype: DType) -> Array:
    import numpy as np

    return cast_array(np.ascontiguousarray(values).reshape(-1), DType.F32, dtype)[0].reshape(values.shape)


def rounded(values: Array, dtype: DType) -> Array:
    """F32 as far as another type keeps it."""
    import numpy as np

    return values if dtype is DType.F32 else _cast(values, dtype).astype(np.float32)


def _eighths(values: Array, scales: Array) -> tuple[Array, Array]:
    import numpy as np

    codes = _cast(values, DType.F8_E4M3)
    back = codes.astype(np.float32)
    back *= scales[..., None]
    return codes, back


class BySize:
    """What goes by the largest size in a block."""

    __slots__ = ()
    measures = 1

    def measured(self, values: Array) -> Array:
        import numpy as np

        made: Array = np.abs(values).max(axis=2, keepdims=True)
        return made


class ByRow(BySize):
    """A scale in the weight's type, by which values are divided."""

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        scales = rounded(measures[..., 0] / measures.dtype.type(LARGEST), dtype)
        scales[scales == 0] = EPSILON[dtype]
        return (scales,)

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        made = rounded(values / shared[0][..., None], dtype)
        made += 0  # a zero point, by which -0 becomes 0
        return _eighths(made, shared[0])


class ByBlock(BySize):
    """A scale in F32, by whose reciprocal values are multiplied."""

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        import numpy as np

        factors = np.float32(1) / measures[..., 0] * np.float32(LARGEST)
        factors[np.isinf(factors)] = 1
        return np.float32(1) / factors, factors

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        scales, factors = shared
        return _eighths(values * factors[..., None], scales)


@dataclass(frozen=True, slots=True)
class Affine:
    """Steps of one size, counted from the end of the range that is farther from 0, and 0 is one of them."""

    bits: int
    measures: int = 2

    def measured(self, values: Array) -> Array:
        """The largest value, and the smallest, negated."""
        import numpy as np

        return np.stack([values.max(axis=2), -values.min(axis=2)], axis=-1)

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        """Scales and biases as they are stored, and as codes are computed with."""
        import numpy as np

        high, low = measures[..., 0], -measures[..., 1]
        below = np.abs(low) > np.abs(high)
        scales = np.maximum((high - low) / np.float32((1 << self.bits) - 1), np.float32(SMALLEST_STEP))
        scales = np.where(below, scales, -scales)
        edges = np.where(below, low, high)
        steps = np.rint(edges / scales)
        some = steps != 0
        scales = np.where(some, edges / steps, scales)
        biases = np.where(some, edges, np.float32(0))
        return rounded(scales, dtype), rounded(biases, dtype), scales, biases

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        """Bytes, of 4 bits two to a byte, the first in the low ones."""
        import numpy as np

        kept_scales, kept_biases, scales, biases = (one[..., None] for one in shared)
        steps = values - biases
        steps /= scales
        np.rint(steps, out=steps)
        np.clip(steps, 0, (1 << self.bits) - 1, out=steps)
        codes = steps.astype(np.uint8)
        steps *= kept_scales
        steps += kept_biases
        return codes[..., 0::2] | codes[..., 1::2] << 4 if self.bits == 4 else codes, steps
