"""Q8_0, the block type that is used most: blocks of 32 elements, with F16 d and 32 signed 8-bit codes.

    d = largest absolute value / 127; code = element · (1 / d), rounded, halves away from zero

The `gguf` package makes the same bits in twice the time. Source: ggml's ggml-quants.c (`quantize_row_q8_0_ref`) and
the package's ``gguf/quants.py``, including what it does with NaN and infinities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array

BLOCK = 32
BELOW_A_HALF = 0.5 - 2.0**-25
"""The largest F32 below 0.5. Adding it and truncating rounds halves up, but nothing smaller: 0.5 itself would also
round up 0.49999997.
"""


def q8_0(values: Array) -> Array:
    """Blocks of Q8_0, as a row of bytes each; `values` are F32."""
    import numpy as np

    f32 = np.float32
    x = values.reshape(-1, BLOCK)
    top = _largest_sizes(x)
    d = top / f32(127)
    inverse = np.where(d == 0, f32(0), f32(1) / d)
    codes = x * inverse
    codes += np.copysign(f32(BELOW_A_HALF), x)
    result = np.empty((len(x), 2 + BLOCK), np.uint8)
    result[:, :2] = d.astype(np.float16).view(np.uint8)
    np.copyto(result[:, 2:].view(np.int8), codes, casting="unsafe")
    return result


def _largest_sizes(x: Array) -> Array:
    """The largest absolute value of each row, in a column. Halves are compared transposed, three times as fast."""
    import numpy as np

    sizes = np.abs(x)
    halves = np.maximum(sizes[:, : BLOCK // 2], sizes[:, BLOCK // 2 :])
    found: Array = np.maximum.reduce(np.ascontiguousarray(halves.T), axis=0)
    return found[:, None]
