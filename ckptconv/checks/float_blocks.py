"""Blocks of F64, F32, F16 and BF16 as numbers that numpy computes with fast, in buffers that are filled again."""

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
"""Elements at a time: as many F32 as are read at once. Smaller blocks would stay in a core's cache, and yet are slower:
a call of numpy takes a microsecond or two, whatever it is given.
"""

FEW = 1 << 13
"""Elements up to which F64 takes no time, and the errors of F32 do not even out."""

ROW = 1 << 10
"""Elements whose products F32 adds up; sums of rows are added in F64. For rows of over 10,000 BLAS would start threads.
"""

TINY = 1e-30
"""A mean square from which on F32 can add it up: squares that are too small for it are nothing beside that."""


@cache
def code_type(dtype: DType, kind: str = "u") -> np.dtype[Any]:
    """Numpy's type for the bits of an element, unsigned or signed (``"i"``)."""
    import numpy as np

    return np.dtype(f"<{kind}{dtype.bits // 8}")


def widened(codes: Array, dtype: DType, buffer: Array, spare: Array, *, any_order: bool = False) -> Array:
    """The values of these bits, exactly, as `buffer`'s type, F32 or F64; in an order that depends on their number
    and `dtype` alone where `any_order` will do. `spare` is as many F32.
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
    """The bits of the largest F16 but for its sign; infinity and NaN have the largest."""
    import numpy as np

    return int(np.bitwise_and(codes, 0x7FFF, out=spare.view("<u2")[: len(codes)]).max())


def _from_bf16(codes: Array, buffer: Array) -> Array:
    """BF16 as F32, of which it is the upper half."""
    import numpy as np

    bits = buffer.view("<u4")[: len(codes)]
    np.copyto(bits, codes)
    np.left_shift(bits, 16, out=bits)
    return bits.view("<f4")


def _from_bf16_pairs(codes: Array, buffer: Array) -> Array:
    """The same of an even number, every other one first, then those between: two to a word, in half the steps."""
    import numpy as np

    half, words, bits = len(codes) // 2, codes.view("<u4"), buffer.view("<u4")[: len(codes)]
    np.left_shift(words, 16, out=bits[:half])
    np.bitwise_and(words, 0xFFFF_0000, out=bits[half:])
    return bits.view("<f4")


def _from_f16(codes: Array, buffer: Array) -> Array:
    """Finite F16 as F32, in a quarter of numpy's time: sign, exponent and fraction are put where F32 has them.

    Both exponents count from another zero (15 and 127), which a factor mends, of subnormal numbers too.
    """
    import numpy as np

    bits = buffer.view("<i4")[: len(codes)]
    np.copyto(bits, codes.view("<i2"))  # three copies of the sign beside it
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, ~0x7000_0000, out=bits)
    values = bits.view("<f4")
    np.multiply(values, np.float32(2.0 ** (127 - 15)), out=values)
    return values


def dot(x: Array, y: Array) -> float:
    """The sum of products: in F32 to seven digits, row by row."""
    import numpy as np

    whole = len(x) // ROW * ROW
    if not whole:
        return float(x @ y)
    rows = np.matmul(x[:whole].reshape(-1, 1, ROW), y[:whole].reshape(-1, ROW, 1))
    total = float(rows.sum(dtype=np.float64))
    return total if whole == len(x) else total + float(x[whole:] @ y[whole:])


def carries(squares: float, x: Array) -> bool:
    """Whether F32 is wide enough for a sum of squares of `x`."""
    return isfinite(squares) and (squares >= TINY * len(x) or not x.any())


def round_to_bf16(values: Array, buffer: Array) -> Array:
    """The codes of finite F32 as BF16, to nearest, ties to even: in F32's bits half of the lower part's range is added,
    less one where the upper part is even, and what carries rounds up.
    """
    import numpy as np

    bits, made = values.view("<u4"), buffer.view("<u4")[: len(values)]
    np.right_shift(bits, 16, out=made)
    np.bitwise_and(made, 1, out=made)
    np.add(made, 0x7FFF, out=made)
    np.add(made, bits, out=made)
    return made.view("<u2")[1::2]
