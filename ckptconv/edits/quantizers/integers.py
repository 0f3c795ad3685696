"""How compressed-tensors' integers are computed: each step is rounded to the weight's type, as torch does.

Integers of n bits have the whole signed range. `Even` has as many steps on both sides of 0, by the largest absolute
value. `Uneven` has the smallest and the largest value at its ends, and 0 at its zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.edits.quantizers.rules import EPSILON, ByLargest, rounded

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType


def _packed(codes: Array, bits: int) -> Array:
    """Integers as bytes, counted from the smallest; of 4 bits, two to a byte, the first in the low bits."""
    import numpy as np

    above: Array = codes.view(np.uint8) + np.uint8(1 << (bits - 1))  # wraps around at 256
    return above if bits == 8 else above[..., 0::2] | above[..., 1::2] << 4


def _clipped(steps: Array, bits: int) -> Array:
    """Steps rounded and clipped to the range, in place; NaN becomes 0."""
    import numpy as np

    half = 1 << (bits - 1)
    np.clip(steps, -half, half - 1, out=steps)
    np.rint(steps, out=steps)
    return np.nan_to_num(steps, copy=False, nan=0.0).astype(np.int8)


@dataclass(frozen=True, slots=True)
class Even(ByLargest):
    """A scale, by which values are divided. signed: codes are signed bytes, not packed."""

    bits: int
    signed: bool = False

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        scales = rounded(measures[..., 0] / measures.dtype.type(((1 << self.bits) - 1) / 2), dtype)
        scales[scales == 0] = EPSILON[dtype]
        return (scales,)

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        scales = shared[0][..., None]
        steps = rounded(values / scales, dtype)
        codes = _clipped(steps, self.bits)
        return codes if self.signed else _packed(codes, self.bits), codes * scales


@dataclass(frozen=True, slots=True)
class Uneven:
    """A scale, and an integer zero point."""

    bits: int
    measures: int = 2

    def measured(self, values: Array) -> Array:
        """The largest value, and the negated smallest one, of a range that includes 0."""
        import numpy as np

        result: Array = np.maximum(np.stack([values.max(axis=2), -values.min(axis=2)], axis=-1), np.float32(0))
        return result

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        """The scale and the zero point.

        If the smallest value is the whole range, the zero point is the largest integer, even if the scale is 0 in that
        type and becomes its epsilon. If there is no range, it is 0.
        """
        import numpy as np

        half, last = np.float32(1 << (self.bits - 1)), np.float32((1 << self.bits) - 1)
        scales = rounded(rounded(measures[..., 0] + measures[..., 1], dtype) / last, dtype)
        zeros = rounded(rounded(measures[..., 1] / scales, dtype) - half, dtype)
        np.rint(np.clip(zeros, -half, half - 1), out=zeros)
        scales[scales == 0] = EPSILON[dtype]
        return scales, np.nan_to_num(zeros, copy=False, nan=0.0)

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        scales, zeros = (numbers[..., None] for numbers in shared)
        steps = rounded(rounded(values / scales, dtype) + zeros, dtype)
        codes = _clipped(steps, self.bits)
        return _packed(codes, self.bits), (codes - zeros) * scales
