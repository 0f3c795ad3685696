"""IQ4_NL and IQ4_XS: about scale · value, where the 16 values of the codes are denser around zero.

An element gets the nearer one of two values. The middle between two values is a multiple of a half, and near these
F32 is exact. So the integer below the doubled element decides, which is less work than ggml's binary search, with the
same result.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ckptconv.edits.ggml.kquants.parts import TINY, largest, nibbles

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""``kvalues_iq4nl``."""

TRIES = 7
"""How many scales are tried on each side of the obvious one."""


def iq4_nl(values: Array) -> Array:
    """Blocks of IQ4_NL, of 32 elements, as the package describes them."""
    import numpy as np

    if values.size == 32:  # numpy sums a single column in another order
        return iq4_nl(np.concatenate([values, values], axis=None))[:1]
    x = np.ascontiguousarray(values.reshape(-1, 32).T)
    scale = _search(x)
    codes = _codes(x, _inverse(scale))
    return np.concatenate([scale.astype(np.float16)[:, None].view(np.uint8), nibbles(codes)], axis=1)


def iq4_xs(values: Array) -> Array:
    """Blocks of IQ4_XS."""
    import numpy as np

    f32 = np.float32
    x = np.ascontiguousarray(values.reshape(-1, 32).T)
    scales = _search(x).reshape(-1, 8)
    d = -largest(scales.T) / f32(32)
    rounded = np.clip(np.rint(_inverse(d)[:, None] * scales), -32, 31)
    codes = _codes(x, _inverse((d[:, None] * rounded).reshape(-1)))
    stored = (rounded + 32).astype(np.uint16)
    upper = np.bitwise_or.reduce([(stored[:, i] >> 4) << (2 * i) for i in range(8)]).astype("<u2")
    lower = ((stored[:, 0::2] & 15) | ((stored[:, 1::2] & 15) << 4)).astype(np.uint8)
    head = [d.astype(np.float16)[:, None].view(np.uint8), upper[:, None].view(np.uint8), lower]
    return np.concatenate([*head, nibbles(codes).reshape(len(d), 128)], axis=1)


def _inverse(scale: Array) -> Array:
    import numpy as np

    inverse: Array = np.where(scale != 0, np.float32(1) / scale, np.float32(0))
    return inverse


@cache
def _tables() -> tuple[Array, Array]:
    """For each integer from -256 to 255, half of which starts an interval: the code of the nearest value (of two, the
    upper one), and the value.
    """
    import numpy as np

    values = np.array(VALUES, np.float32)
    codes = np.searchsorted(values[:-1] + values[1:], np.arange(-256, 256, dtype=np.float32), side="right")
    return codes.astype(np.uint8), values[codes]


def _codes(x: Array, inverse: Array) -> Array:
    """The codes of the values nearest to each element, times its column's factor."""
    found: Array = _tables()[0].take(_intervals(x, inverse))
    return found


def _intervals(x: Array, inverse: Array) -> Array:
    """The place in the tables of each element, times its column's factor; for a NaN the last, as in ggml's search."""
    import numpy as np

    scaled = inverse * x
    scaled += scaled
    np.floor(scaled, out=scaled)
    np.clip(scaled, -256, 255, out=scaled)
    if np.isnan(scaled.sum()):
        scaled[np.isnan(scaled)] = 255
    scaled += np.float32(256)
    return scaled.astype(np.intp)


def _search(x: Array) -> Array:
    """The scale of each column."""
    import numpy as np

    f32 = np.float32
    values = _tables()[1]
    top = largest(x)
    weights = x * x

    def sums(inverse: Array) -> tuple[Array, Array]:
        taken = values.take(_intervals(x, inverse))
        weighted = weights * taken
        taken *= weighted
        weighted *= x
        return weighted.sum(axis=0), taken.sum(axis=0)

    sum_xv, sum_vv = sums(f32(1) / (-top / f32(VALUES[0])))
    scale = sum_xv / sum_vv
    best = scale * sum_xv
    for step in range(-TRIES, TRIES + 1):
        sum_xv, sum_vv = sums((f32(step) + f32(VALUES[0])) / top)
        better = (sum_vv > 0) & (sum_xv * sum_xv > best * sum_vv)
        new = sum_xv / sum_vv
        scale, best = np.where(better, new, scale), np.where(better, new * sum_xv, best)
    found: Array = np.where(np.abs(top) < f32(TINY), f32(0), scale)
    return found
