"""ggml's K-quants: 256 elements to a block, whose sub-blocks have scales of their own in few bits.

    Q4_K  F16 d, dmin; 12 bytes: scale and minimum, 6 bits each, of 8 sub-blocks of 32; 128 bytes: 4 bits an element
    Q5_K  the same, and before the elements 32 bytes: the fifth bit of each
    Q6_K  128 bytes: the lower 4 bits of the elements; 64 bytes: their upper 2; 16 scales of 8 bits, of sub-blocks of
          16; F16 d

Each sub-block's scale (and minimum) is searched: the elements are rounded by some scales about the obvious one, and of
those the best is kept, by squared errors that are weighted by the elements' sizes. Then the scales are rounded, and the
elements once more, by what became of them. It is done in F32, and sums go from the first element to the last, so that
the bits are those of ``ggml_quantize_chunk`` without an importance matrix, where that was compiled without fused
multiply-add, as ggml's base library is for any x86-64. Elements stand in columns here, a sub-block in each.

Source: ggml's ggml-quants.c (`quantize_row_q4_K_ref`, `q5_K`, `q6_K`, `make_qkx2_quants`, `make_qx_quants`) and
ggml-common.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    Array = np.ndarray[Any, Any]

TINY = 1e-15
"""``GROUP_MAX_EPS``: a Q6_K sub-block of smaller elements is all zeros."""

TRIES_Q4 = (15, -1.0, 20)
TRIES_Q5 = (31, -0.5, 15)
"""The largest code; where the search begins, so much above it; how many steps of a tenth follow."""


def _q4(values: Array) -> Array:
    """The blocks of F32 values that are a whole number of them, a row of bytes each; so for the others."""
    import numpy as np

    head, codes = _with_minima(values, *TRIES_Q4)
    return np.concatenate([head, _nibbles(codes)], axis=1)


def _q5(values: Array) -> Array:
    import numpy as np

    head, codes = _with_minima(values, *TRIES_Q5)
    fifth = np.packbits((codes >> 4).transpose(0, 2, 1), axis=2, bitorder="little")[:, :, 0]
    return np.concatenate([head, fifth, _nibbles(codes & 15)], axis=1)


def _nibbles(codes: Array) -> Array:
    """Two sub-blocks to 32 bytes, the first in the lower bits; codes are (blocks, 8, 32)."""
    joined: Array = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return joined.reshape(len(codes), -1)


def _with_minima(values: Array, most: int, first: float, more: int) -> tuple[Array, Array]:
    """Scales and minima as they are packed, and the elements' codes, of sub-blocks of 32."""
    import numpy as np

    x = np.ascontiguousarray(values.reshape(-1, 32).T)
    scale, low, codes = _searched(x, most, first, more)
    scales, lows = scale.reshape(-1, 8), low.reshape(-1, 8)
    d, rounded = _six_bits(scales)
    dmin, rounded_low = _six_bits(lows)
    step = (d.astype(np.float32)[:, None] * rounded).reshape(-1)
    shift = (dmin.astype(np.float32)[:, None] * rounded_low).reshape(-1)
    again = np.clip(np.rint((x + shift) / step), 0, most)
    codes = np.where(step == 0, codes, again).astype(np.uint8)
    head = [d[:, None].view(np.uint8), dmin[:, None].view(np.uint8), _packed(rounded, rounded_low)]
    return np.concatenate(head, axis=1), codes.T.reshape(-1, 8, 32)


def _six_bits(scales: Array) -> tuple[Array, Array]:
    """What 8 numbers share, as F16, and each as a multiple of it."""
    import numpy as np

    top = np.maximum(scales.max(axis=1), np.float32(0))
    inverse = np.where(top > 0, np.float32(63) / top, np.float32(0))
    rounded = np.minimum(np.rint(inverse[:, None] * scales), 63).astype(np.uint8)
    return (top / np.float32(63)).astype(np.float16), rounded


def _packed(scales: Array, lows: Array) -> Array:
    """12 bytes: 6 bits of the first four of both, above them 2 of the last four; then the lower 4 of those."""
    import numpy as np

    upper = [part[:, :4] | ((part[:, 4:] >> 4) << 6) for part in (scales, lows)]
    return np.concatenate([*upper, (scales[:, 4:] & 15) | ((lows[:, 4:] & 15) << 4)], axis=1)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Sub-blocks as columns, each to become about scale · code + minimum."""

    x: Array
    weights: Array
    sum_w: Array
    sum_x: Array
    most: int

    @classmethod
    def of(cls, x: Array, most: int) -> _Columns:
        import numpy as np

        weights = np.sqrt((x * x).sum(axis=0) / np.float32(32)) + np.abs(x)
        return cls(x, weights, weights.sum(axis=0), (weights * x).sum(axis=0), most)

    def codes(self, inverse: Array, low: Array) -> Array:
        """The elements, rounded by a scale and a minimum."""
        import numpy as np

        codes: Array = self.x - low
        codes *= inverse
        np.rint(codes, out=codes)
        return np.clip(codes, 0, self.most, out=codes)

    def error(self, scale: Array, low: Array, codes: Array) -> Array:
        """The weighted squares of what codes are off."""
        error: Array = scale * codes
        error += low
        error -= self.x
        error *= error
        error *= self.weights
        summed: Array = error.sum(axis=0)
        return summed

    def fitted(self, codes: Array) -> tuple[Array, Array, Array]:
        """Scale and minimum, which is at most 0, that suit codes best by least squares; and where there are any."""
        import numpy as np

        weighted = self.weights * codes
        sum_c, sum_xc = weighted.sum(axis=0), (weighted * self.x).sum(axis=0)
        weighted *= codes
        sum_cc = weighted.sum(axis=0)
        spread = self.sum_w * sum_cc - sum_c * sum_c
        scale = (self.sum_w * sum_xc - self.sum_x * sum_c) / spread
        low = (sum_cc * self.sum_x - sum_c * sum_xc) / spread
        above = low > 0
        return np.where(above, sum_xc / sum_cc, scale), np.where(above, np.float32(0), low), spread > 0


def _searched(x: Array, most: int, first: float, more: int) -> tuple[Array, Array, Array]:
    """Scale, minimum (its negative) and codes of each column."""
    import numpy as np

    f32, columns = np.float32, _Columns.of(x, most)
    low, high = np.minimum(x.min(axis=0), f32(0)), x.max(axis=0)
    flat = high == low
    inverse = f32(most) / (high - low)
    scale, origin = f32(1) / inverse, low
    best = columns.error(scale, low, columns.codes(inverse, low))
    for step in range(more + 1):
        tried = (f32(first) + f32(0.1) * f32(step) + f32(most)) / (high - low)  # of the minimum that is best so far
        codes = columns.codes(tried, low)
        new, new_low, fits = columns.fitted(codes)
        error = columns.error(new, new_low, codes)
        better = fits & (error < best)
        inverse, origin = np.where(better, tried, inverse), np.where(better, low, origin)
        scale, low = np.where(better, new, scale), np.where(better, new_low, low)
        best = np.where(better, error, best)
    codes = columns.codes(inverse, origin)
    codes[:, flat] = 0
    return np.where(flat, f32(0), scale), -low, codes


def _q6(values: Array) -> Array:
    import numpy as np

    f32 = np.float32
    x = np.ascontiguousarray(values.reshape(-1, 16).T)
    scale, codes = _symmetric(x)
    scales = scale.reshape(-1, 16)
    top = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)
    inverse = f32(-128) / top
    d = (f32(1) / inverse).astype(np.float16)
    rounded = np.minimum(np.rint(inverse * scales), 127).astype(np.int8)
    step = (d.astype(f32) * rounded).reshape(-1)
    again = np.clip(np.rint(x / step), -32, 31) + f32(32)
    codes = np.where(step == 0, codes, again).astype(np.uint8).T.reshape(-1, 2, 4, 32)
    lower, upper = codes & 15, codes >> 4
    low = lower[:, :, :2] | (lower[:, :, 2:] << 4)
    high = upper[:, :, 0] | (upper[:, :, 1] << 2) | (upper[:, :, 2] << 4) | (upper[:, :, 3] << 6)
    count = len(codes)
    parts = [low.reshape(count, 128), high.reshape(count, 64), rounded.view(np.uint8), d.view(np.uint8)]
    made = np.concatenate(parts, axis=1)
    made[np.abs(top[:, 0]) < f32(TINY)] = 0
    return made


def _symmetric(x: Array) -> tuple[Array, Array]:
    """Scale and codes of each column: x is about scale · (code - 32)."""
    import numpy as np

    f32 = np.float32
    top = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    weights = x * x
    weighted = weights * x

    def codes_for(inverse: Array) -> Array:
        codes: Array = inverse * x
        np.rint(codes, out=codes)
        return np.clip(codes, -32, 31, out=codes)

    def sums(inverse: Array) -> tuple[Array, Array]:
        codes = codes_for(inverse)
        squares = weights * codes
        squares *= codes
        return (weighted * codes).sum(axis=0), squares.sum(axis=0)

    inverse = f32(-32) / top
    sum_xc, sum_cc = sums(inverse)
    scale = np.where(sum_cc != 0, sum_xc / sum_cc, f32(0))
    best = scale * sum_xc
    for step in (*range(-9, 0), *range(1, 10)):
        tried = -(f32(32) + f32(0.1) * f32(step)) / top
        sum_xc, sum_cc = sums(tried)
        better = (sum_cc > 0) & (sum_xc * sum_xc > best * sum_cc)
        new = sum_xc / sum_cc
        inverse, scale = np.where(better, tried, inverse), np.where(better, new, scale)
        best = np.where(better, new * sum_xc, best)
    codes = codes_for(inverse) + f32(32)
    zero = np.abs(top) < f32(TINY)
    codes[:, zero] = 0
    return np.where(zero, f32(0), scale), codes


KQUANTS: dict[str, Callable[[Array], Array]] = {"Q6_K": _q6, "Q5_K": _q5, "Q4_K": _q4}
"""What makes the blocks of each type."""
