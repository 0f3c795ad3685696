"""Blocks of F64, F32, F16 and BF16 in types that numpy computes with fast, in buffers that are used again."""

from __future__ import annotations

from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any

from ckptconv.core.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

    from ckptconv.core.arrays import Array


FAST = (DType.F64, DType.F32, DType.F16, DType.BF16)

BLOCK = 1 << 17
"""Elements at a time: as many F32 as are read at once. Smaller blocks would stay in a core's cache, but are slower:
a call of numpy takes a microsecond or two.
"""

FEW = 1 << 13
"""For fewer elements F64 costs no noticeable time, and F32's errors do not average out."""

ROW = 1 << 10
"""Products that are added in F32; sums of such rows are added in F64. For rows of over 10,000 BLAS starts threads."""

TINY = 1e-30
"""The smallest mean square that F32 is trusted to add up: squares that it rounds to zero are negligible beside it."""


@cache
def code_type(dtype: DType, kind: str = "u") -> np.dtype[Any]:
    """Numpy's type for the bits of an element, unsigned or signed (``"i"``)."""
    import numpy as np

    return np.dtype(f"<{kind}{dtype.bits // 8}")


def widened(codes: Array, dtype: DType, buffer: Array, spare: Array, *, any_order: bool = False) -> Array:
    """The exact values of these bits in the type of `buffer`, F32 or F64. `spare`: as many F32.

    any_order: the values may be reordered, in a way that depends only on `dtype` and their number.
    """
    import numpy as np

    is_narrow = buffer.dtype == np.float32
    if dtype is DType.BF16:
        widen = _from_bf16_pairs if any_order and len(codes) % 2 == 0 else _from_bf16
        values = widen(codes, buffer if is_narrow else spare)
    elif dtype is DType.F16 and is_narrow and _largest_code(codes, spare) < 0x7C00:
        values = _from_f16(codes, buffer)
    else:
        values = codes.view(f"<f{codes.itemsize}")
    if values.dtype == buffer.dtype:
        return values
    np.copyto(buffer[: len(values)], values)
    return buffer[: len(values)]


def _largest_code(codes: Array, spare: Array) -> int:
    """The largest code of these F16 without their signs; infinity and NaN have the largest."""
    import numpy as np

    return int(np.bitwise_and(codes, 0x7FFF, out=spare.view("<u2")[: len(codes)]).max())


def _from_bf16(codes: Array, buffer: Array) -> Array:
    """BF16 as F32: its bits are the upper half of F32's."""
    import numpy as np

    bits = buffer.view("<u4")[: len(codes)]
    np.copyto(bits, codes)
    np.left_shift(bits, 16, out=bits)
    return bits.view("<f4")


def _from_bf16_pairs(codes: Array, buffer: Array) -> Array:
    """The same for an even number of values, in half the steps: first those at even places, then those at odd ones."""
    import numpy as np

    half, words, bits = len(codes) // 2, codes.view("<u4"), buffer.view("<u4")[: len(codes)]
    np.left_shift(words, 16, out=bits[:half])
    np.bitwise_and(words, 0xFFFF_0000, out=bits[half:])
    return bits.view("<f4")


def _from_f16(codes: Array, buffer: Array) -> Array:
    """Finite F16 as F32, in a quarter of numpy's time: sign, exponent and fraction are moved to where F32 has them.

    The exponents have different biases (15 and 127), which a factor corrects, for subnormal numbers too.
    """
    import numpy as np

    bits = buffer.view("<i4")[: len(codes)]
    np.copyto(bits, codes.view("<i2"))  # sign-extended: copies of the sign above it
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, ~0x7000_0000, out=bits)
    values = bits.view("<f4")
    np.multiply(values, np.float32(2.0 ** (127 - 15)), out=values)
    return values


def dot(x: Array, y: Array) -> float:
    """The sum of products, row by row; of F32 to seven digits."""
    import numpy as np

    whole = len(x) // ROW * ROW
    if not whole:
        return float(x @ y)
    rows = np.matmul(x[:whole].reshape(-1, 1, ROW), y[:whole].reshape(-1, ROW, 1))
    total = float(rows.sum(dtype=np.float64))
    return total if whole == len(x) else total + float(x[whole:] @ y[whole:])


def f32_suffices(squares: float, x: Array) -> bool:
    """Whether F32 is wide enough for a sum of squares of `x`."""
    return isfinite(squares) and (squares >= TINY * len(x) or not x.any())


def round_to_bf16(values: Array, buffer: Array) -> Array:
    """The codes of finite F32 rounded to BF16, to nearest, ties to even: half of the lower half's range is added to
    F32's bits, less one where the upper half is even; a carry rounds up.
    """
    import numpy as np

    bits, rounded = values.view("<u4"), buffer.view("<u4")[: len(values)]
    np.right_shift(bits, 16, out=rounded)
    np.bitwise_and(rounded, 1, out=rounded)
    np.add(rounded, 0x7FFF, out=rounded)
    np.add(rounded, bits, out=rounded)
    return rounded.view("<u2")[1::2]
