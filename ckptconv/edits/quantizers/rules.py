"""How schemes compute scales and codes (`schemes` says what is stored): each step in F32, unless stated otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.edits.rounding import cast_array

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array

LARGEST = 448.0
"""The largest F8_E4M3."""

EPSILON = {DType.F32: 2.0**-23, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}

SMALLEST_STEP = 1e-7
"""MLX's smallest scale."""


def _cast(values: Array, dtype: DType) -> Array:
    import numpy as np

    return cast_array(np.ascontiguousarray(values).reshape(-1), DType.F32, dtype)[0].reshape(values.shape)


def rounded(values: Array, dtype: DType) -> Array:
    """F32 values rounded to another type, as F32."""
    import numpy as np

    return values if dtype is DType.F32 else _cast(values, dtype).astype(np.float32)


def _to_f8(values: Array, scales: Array) -> tuple[Array, Array]:
    import numpy as np

    codes = _cast(values, DType.F8_E4M3)
    back = codes.astype(np.float32)
    back *= scales[..., None]
    return codes, back


class ByLargest:
    """A rule that measures the largest absolute value of a block."""

    __slots__ = ()
    measures = 1

    def measured(self, values: Array) -> Array:
        import numpy as np

        result: Array = np.abs(values).max(axis=2, keepdims=True)
        return result


class ByRow(ByLargest):
    """A scale in the weight's type; values are divided by it."""

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        scales = rounded(measures[..., 0] / measures.dtype.type(LARGEST), dtype)
        scales[scales == 0] = EPSILON[dtype]
        return (scales,)

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        result = rounded(values / shared[0][..., None], dtype)
        result += 0  # the zero point, which turns -0 into 0
        return _to_f8(result, shared[0])


class ByBlock(ByLargest):
    """A scale in F32; values are multiplied by its reciprocal."""

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        import numpy as np

        factors = np.float32(1) / measures[..., 0] * np.float32(LARGEST)
        factors[np.isinf(factors)] = 1
        return np.float32(1) / factors, factors

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        scales, factors = shared
        return _to_f8(values * factors[..., None], scales)


@dataclass(frozen=True, slots=True)
class Affine:
    """Equal steps, counted from the end of the range that is farther from 0; 0 is one of them."""

    bits: int
    measures: int = 2

    def measured(self, values: Array) -> Array:
        """The largest value, and the negated smallest one."""
        import numpy as np

        return np.stack([values.max(axis=2), -values.min(axis=2)], axis=-1)

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        """Scales and biases as they are stored, and as codes are computed with them."""
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
        """Bytes; of 4-bit codes, two to a byte, the first in the low bits."""
        import numpy as np

        kept_scales, kept_biases, scales, biases = (numbers[..., None] for numbers in shared)
        steps = values - biases
        steps /= scales
        np.rint(steps, out=steps)
        np.clip(steps, 0, (1 << self.bits) - 1, out=steps)
        codes = steps.astype(np.uint8)
        steps *= kept_scales
        steps += kept_biases
        return codes[..., 0::2] | codes[..., 1::2] << 4 if self.bits == 4 else codes, steps
