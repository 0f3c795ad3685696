"""Codes: the bits of elements of at most 16 bits as integers, and the value that each code stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.checks.figures import numbers
from ckptconv.core.arrays import Array, from_bytes, numpy_dtype, to_bytes

if TYPE_CHECKING:
    from ckptconv.core.dtypes import DType


def codes_of(data: memoryview, dtype: DType) -> Array:
    """The code of each element of an image: U8 for types of up to 8 bits, else U16."""
    import numpy as np

    codes: Array = from_bytes(data, dtype, len(data) * 8 // dtype.bits).view(np.uint16 if dtype.bits > 8 else np.uint8)
    return codes if dtype.bits in (8, 16) else codes & np.uint8((1 << dtype.bits) - 1)


def image_of(codes: Array, dtype: DType) -> memoryview:
    """The image of elements with these codes."""
    import numpy as np

    return memoryview(to_bytes(codes.astype(np.uint16 if dtype.bits > 8 else np.uint8).view(numpy_dtype(dtype)), dtype))


def values_of(dtype: DType) -> Array:
    """The value of every code, from 0 on."""
    import numpy as np

    return numbers(image_of(np.arange(1 << dtype.bits), dtype), dtype)
