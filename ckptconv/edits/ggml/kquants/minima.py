"""Q2_K, Q4_K and Q5_K: about scale · code + minimum, where codes start at 0 and minima are at most 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.edits.ggml.kquants.parts import crumbs

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a type's sub-blocks are searched.

    size:     elements of a sub-block.
    most:     the largest code.
    coarse:   the largest multiple of the number that a block's scales, or minima, share.
    first:    where the search starts, relative to `most`.
    more:     how many steps of a tenth follow.
    absolute: whether errors count by their absolute value, and weights are the elements' absolute values; else squares.
    """

    size: int
    most: int
    coarse: int
    first: float
    more: int
    absolute: bool = False

    def weights(self, x: Array) -> Array:
        import numpy as np

        sizes: Array = np.abs(x)
        return sizes if self.absolute else np.sqrt((x * x).sum(axis=0) / np.float32(self.size)) + sizes


_Q2 = _Kind(16, 3, 15, -0.5, 15, absolute=True)
_Q4 = _Kind(32, 15, 63, -1.0, 20)
_Q5 = _Kind(32, 31, 63, -0.5, 15)


def q2(values: Array) -> Array:
    """Blocks of Q2_K, as the package describes them."""
    import numpy as np

    d, dmin, scales, lows, codes = _quantize(values, _Q2)
    return np.concatenate([scales | (lows << 4), crumbs(codes.reshape(-1, 256)), d, dmin], axis=1)


def q4(values: Array) -> Array:
    """Blocks of Q4_K."""
    import numpy as np

    d, dmin, scales, lows, codes = _quantize(values, _Q4)
    return np.concatenate([d, dmin, _packed(scales, lows), _nibbles(codes)], axis=1)


def q5(values: Array) -> Array:
    """Blocks of Q5_K."""
    import numpy as np

    d, dmin, scales, lows, codes = _quantize(values, _Q5)
    fifth = np.packbits((codes >> 4).transpose(0, 2, 1), axis=2, bitorder="little")[:, :, 0]
    return np.concatenate([d, dmin, _packed(scales, lows), fifth, _nibbles(codes & 15)], axis=1)


def _nibbles(codes: Array) -> Array:
    """Two sub-blocks to 32 bytes, the first in the lower bits. codes: (blocks, 8, 32)."""
    joined: Array = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return joined.reshape(len(codes), -1)


def _packed(scales: Array, lows: Array) -> Array:
    """12 bytes: 6 bits of the first four of both, and above these 2 bits of the last four; then their lower 4 bits."""
    import numpy as np

    upper = [part[:, :4] | ((part[:, 4:] >> 4) << 6) for part in (scales, lows)]
    return np.concatenate([*upper, (scales[:, 4:] & 15) | ((lows[:, 4:] & 15) << 4)], axis=1)


def _quantize(values: Array, kind: _Kind) -> tuple[Array, Array, Array, Array, Array]:
    """What scales and minima share, as bytes of F16; scales and minima as multiples of that, (blocks, sub-blocks);
    codes, (blocks, sub-blocks, elements).
    """
    import numpy as np

    parts = 256 // kind.size
    x = np.ascontiguousarray(values.reshape(-1, kind.size).T)
    scale, low, codes = _search(x, kind)
    d, scales = _shared(scale.reshape(-1, parts), kind.coarse)
    dmin, lows = _shared(low.reshape(-1, parts), kind.coarse)
    step = (d.astype(np.float32)[:, None] * scales).reshape(-1)
    shift = (dmin.astype(np.float32)[:, None] * lows).reshape(-1)
    again = np.clip(np.rint((x + shift) / step), 0, kind.most)
    codes = np.where(step == 0, codes, again).astype(np.uint8)
    cells = codes.T.reshape(-1, parts, kind.size)
    return d[:, None].view(np.uint8), dmin[:, None].view(np.uint8), scales, lows, cells


def _shared(scales: Array, coarse: int) -> tuple[Array, Array]:
    """What a block's numbers share, as F16, and each number as a multiple of it."""
    import numpy as np

    most = np.float32(coarse)
    top = np.maximum(scales.max(axis=1), np.float32(0))
    inverse = np.where(top > 0, most / top, np.float32(0))
    rounded = np.minimum(np.rint(inverse[:, None] * scales), coarse).astype(np.uint8)
    return (top / most).astype(np.float16), rounded


@dataclass(frozen=True, slots=True)
class _Columns:
    """Sub-blocks as columns, each to be approximated by scale · code + minimum."""

    x: Array
    kind: _Kind
    weights: Array
    sum_w: Array
    sum_x: Array

    @classmethod
    def of(cls, x: Array, kind: _Kind) -> _Columns:
        weights = kind.weights(x)
        return cls(x, kind, weights, weights.sum(axis=0), (weights * x).sum(axis=0))

    def codes(self, inverse: Array, low: Array) -> Array:
        """The elements, rounded with a scale and a minimum."""
        import numpy as np

        codes: Array = self.x - low
        codes *= inverse
        np.rint(codes, out=codes)
        return np.clip(codes, 0, self.kind.most, out=codes)

    def error(self, scale: Array, low: Array, codes: Array) -> Array:
        """The weighted errors of some codes."""
        import numpy as np

        error: Array = scale * codes
        error += low
        error -= self.x
        if self.kind.absolute:
            np.abs(error, out=error)
        else:
            error *= error
        error *= self.weights
        summed: Array = error.sum(axis=0)
        return summed

    def fitted(self, codes: Array) -> tuple[Array, Array, Array]:
        """Scale and minimum (at most 0) that fit the codes best, by least squares; and where there are any."""
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


def _search(x: Array, kind: _Kind) -> tuple[Array, Array, Array]:
    """The scale, the negated minimum and the codes of each column."""
    import numpy as np

    f32, columns, most = np.float32, _Columns.of(x, kind), np.float32(kind.most)
    low, high = np.minimum(x.min(axis=0), f32(0)), x.max(axis=0)
    flat = high == low
    inverse = most / (high - low)
    scale, origin = f32(1) / inverse, low
    best = columns.error(scale, low, columns.codes(inverse, low))
    for step in range(kind.more + 1):
        tried = (f32(kind.first) + f32(0.1) * f32(step) + most) / (high - low)  # `low` is the best minimum so far
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
