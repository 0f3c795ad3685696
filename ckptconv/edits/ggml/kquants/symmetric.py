"""Q3_K and Q6_K: about scale · code, where codes have signs and are stored plus half of their range."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.ggml.kquants.parts import TINY, crumbs, largest

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


TRIES = 5
"""How often Q3_K goes through the elements of a sub-block."""


def q3(values: Array) -> Array:
    """Blocks of Q3_K, as the package describes them."""
    import numpy as np

    f32 = np.float32
    x = np.ascontiguousarray(values.reshape(-1, 16).T)
    scale, codes = _search_q3(x)
    scales = scale.reshape(-1, 16)
    top = largest(scales.T)
    inverse = np.where(top != 0, f32(-32) / top, f32(0))
    d = np.where(top != 0, f32(1) / inverse, f32(0)).astype(np.float16)
    rounded = np.clip(np.rint(inverse[:, None] * scales), -32, 31).astype(np.int8)
    step = (d.astype(f32)[:, None] * rounded).reshape(-1)
    again = np.clip(np.rint(x / step), -4, 3) + f32(4)
    codes = np.where(step == 0, codes, again).astype(np.uint8).T.reshape(-1, 256)
    third = np.packbits((codes >> 2).reshape(-1, 8, 32).transpose(0, 2, 1), axis=2, bitorder="little")[:, :, 0]
    stored = np.where(top[:, None] != 0, rounded.astype(np.int16) + 32, 0).astype(np.uint8)
    return np.concatenate([third, crumbs(codes), _six_bits(stored), d[:, None].view(np.uint8)], axis=1)


def _six_bits(scales: Array) -> Array:
    """16 scales as 12 bytes: the lower 4 bits of the first and the last eight, then the upper 2 bits of each four."""
    import numpy as np

    lower = (scales[:, :8] & 15) | ((scales[:, 8:] & 15) << 4)
    upper = np.bitwise_or.reduce([(scales[:, 4 * i : 4 * i + 4] >> 4) << (2 * i) for i in range(4)])
    return np.concatenate([lower, upper], axis=1)


def _search_q3(x: Array) -> tuple[Array, Array]:
    """Scale and codes of each column: x is about scale · (code - 4).

    One element after another gets the code that fits best, given the codes of the others, if that improves the whole.
    """
    import numpy as np

    f32 = np.float32
    top = largest(x)
    codes = np.clip(np.rint(f32(-4) / top * x), -4, 3)
    weights = np.empty((16, 2, x.shape[1]), f32)
    np.multiply(x, x, out=weights[:, 1])
    np.multiply(weights[:, 1], x, out=weights[:, 0])
    terms = weights * codes[:, None]
    terms[:, 1] *= codes
    sums = terms.sum(axis=0)
    _descend(x, weights, codes, sums, TRIES)
    zero = np.abs(top) < f32(TINY)
    codes += f32(4)
    codes[:, zero] = 0
    return np.where(zero | (sums[1] <= 0), f32(0), sums[0] / sums[1]), codes


def _descend(x: Array, weights: Array, codes: Array, sums: Array, tries: int) -> None:
    """Improve `codes` and `sums` in place. A column that one pass does not change is done; few are left soon."""
    import numpy as np

    changed = np.flatnonzero(_improve(x, weights, codes, sums))
    if tries > 1 and changed.size:
        left_codes, left_sums = np.take(codes, changed, axis=1), np.take(sums, changed, axis=1)
        _descend(np.take(x, changed, axis=1), np.take(weights, changed, axis=2), left_codes, left_sums, tries - 1)
        codes[:, changed], sums[:, changed] = left_codes, left_sums


def _improve(x: Array, weights: Array, codes: Array, sums: Array) -> Array:
    """Go through the elements once, in place. Returns the columns that changed.

    weights: w·x and w of each element. sums: of w·x·code, and of w·code·code.
    """
    import numpy as np

    changed = np.zeros(x.shape[1], np.bool_)
    rest, found = np.empty((2, *sums.shape), np.float32)
    new = np.empty(x.shape[1], np.float32)
    for column, pair, row in zip(x, weights, codes, strict=True):
        np.multiply(pair, row, out=rest)
        rest[1] *= row
        np.subtract(sums, rest, out=rest)
        np.multiply(column, rest[1], out=new)
        new /= rest[0]
        np.rint(new, out=new)
        np.clip(new, -4, 3, out=new)
        np.multiply(pair, new, out=found)
        found[1] *= new
        found += rest
        better = (rest[0] > 0) & (new != row)
        better &= found[1] > 0
        better &= found[0] * found[0] * sums[1] > sums[0] * sums[0] * found[1]
        np.copyto(row, new, where=better)
        np.copyto(sums, found, where=better)
        changed |= better
    return changed


def q6(values: Array) -> Array:
    """Blocks of Q6_K."""
    import numpy as np

    f32 = np.float32
    x = np.ascontiguousarray(values.reshape(-1, 16).T)
    scale, codes = _search_q6(x)
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
    result = np.concatenate(parts, axis=1)
    result[np.abs(top[:, 0]) < f32(TINY)] = 0
    return result


def _search_q6(x: Array) -> tuple[Array, Array]:
    """Scale and codes of each column: x is about scale · (code - 32)."""
    import numpy as np

    f32 = np.float32
    top = largest(x)
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
