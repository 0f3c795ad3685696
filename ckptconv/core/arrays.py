"""Converts bytes into arrays, and has numpy's and torch's names of the element types.

numpy and ml_dtypes take 0.1 s to import, and torch 2 s. They are imported only when an array is needed.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from ckptconv.core.dtypes import DType
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

Arrays = dict[str, Array]
"""Arrays by name: the inputs or outputs of a network."""

NUMPY_NAMES: dict[DType, str] = {
    DType.F64: "float64",
    DType.F32: "float32",
    DType.F16: "float16",
    DType.BF16: "ml_dtypes.bfloat16",
    DType.F8_E5M2: "ml_dtypes.float8_e5m2",
    DType.F8_E4M3: "ml_dtypes.float8_e4m3fn",
    DType.F8_E5M2FNUZ: "ml_dtypes.float8_e5m2fnuz",
    DType.F8_E4M3FNUZ: "ml_dtypes.float8_e4m3fnuz",
    DType.F8_E8M0: "ml_dtypes.float8_e8m0fnu",
    DType.F6_E2M3: "ml_dtypes.float6_e2m3fn",
    DType.F6_E3M2: "ml_dtypes.float6_e3m2fn",
    DType.F4: "ml_dtypes.float4_e2m1fn",
    DType.I64: "int64",
    DType.I32: "int32",
    DType.I16: "int16",
    DType.I8: "int8",
    DType.I4: "ml_dtypes.int4",
    DType.I2: "ml_dtypes.int2",
    DType.U64: "uint64",
    DType.U32: "uint32",
    DType.U16: "uint16",
    DType.U8: "uint8",
    DType.U4: "ml_dtypes.uint4",
    DType.U2: "ml_dtypes.uint2",
    DType.BOOL: "bool",
    DType.C128: "complex128",
    DType.C64: "complex64",
}
"""numpy's dtype for each of ours; those with ``ml_dtypes.`` come from that package. C32 and BC32 have none."""

NUMPY_DESCR: dict[DType, str] = {
    DType.F64: "<f8", DType.F32: "<f4", DType.F16: "<f2", DType.BF16: "<V2", DType.I64: "<i8", DType.I32: "<i4",
    DType.I16: "<i2", DType.I8: "|i1", DType.U64: "<u8", DType.U32: "<u4", DType.U16: "<u2", DType.U8: "|u1",
    DType.BOOL: "|b1", DType.C128: "<c16", DType.C64: "<c8",
}  # fmt: skip
"""numpy's type strings. There is none for bfloat16: arrays of ml_dtypes are saved as two bytes each, "void"."""

NUMPY_NAMED = {name.rpartition(".")[2]: dtype for dtype, name in NUMPY_NAMES.items()}
"""The element types by numpy's names, without a package: ``float32``, ``bfloat16``."""

NUMPY_CODED = {descr[1:]: dtype for dtype, descr in NUMPY_DESCR.items() if descr[1] != "V"}
"""The element types by numpy's type strings, without the byte order: ``f4``."""

TORCH_NAMES: dict[DType, str] = {
    DType.F64: "float64",
    DType.F32: "float32",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.F8_E5M2: "float8_e5m2",
    DType.F8_E4M3: "float8_e4m3fn",
    DType.F8_E5M2FNUZ: "float8_e5m2fnuz",
    DType.F8_E4M3FNUZ: "float8_e4m3fnuz",
    DType.F8_E8M0: "float8_e8m0fnu",
    DType.F4: "float4_e2m1fn_x2",
    DType.I64: "int64",
    DType.I32: "int32",
    DType.I16: "int16",
    DType.I8: "int8",
    DType.U64: "uint64",
    DType.U32: "uint32",
    DType.U16: "uint16",
    DType.U8: "uint8",
    DType.BOOL: "bool",
    DType.C128: "complex128",
    DType.C64: "complex64",
    DType.C32: "complex32",
    DType.BC32: "bcomplex32",
}
"""torch's dtype for each of ours. F4 holds two elements in one of torch's (``_x2``)."""


@cache
def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """Numpy's dtype for an element type. Raises UnsupportedError if neither numpy nor ml_dtypes has one."""
    import ml_dtypes
    import numpy as np

    name = NUMPY_NAMES.get(dtype)
    if name is None:
        raise UnsupportedError(f"numpy has no element type for {dtype}", hint="read its bytes with .read()")
    package, _, plain = name.rpartition(".")
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, plain) if package else plain)
    return found


def from_bytes(data: memoryview, dtype: DType, shape: tuple[int, ...] | int) -> Array:
    """A part of an image as a numpy array. Elements of less than 8 bits take one byte each, as in ml_dtypes."""
    import numpy as np

    target = numpy_dtype(dtype)
    if dtype.bits in (2, 4):
        count = len(data) * 8 // dtype.bits
        raw = np.frombuffer(data, dtype=np.uint8)
        shifts = np.arange(0, 8, dtype.bits, dtype=np.uint8)
        wanted = int(np.prod(shape, dtype=np.int64))
        codes = ((raw[:, None] >> shifts) & ((1 << dtype.bits) - 1)).reshape(count)[:wanted]
        if dtype.kind == "int":  # ml_dtypes keeps these sign-extended
            half = 1 << (dtype.bits - 1)
            codes = ((codes ^ half) - np.uint8(half)).astype(np.uint8)
        return codes.view(target).reshape(shape)
    if dtype.bits == 6:
        return _unpack_6(np.frombuffer(data, dtype=np.uint8), shape).view(target)
    if sys.byteorder == "big":
        return np.frombuffer(data, dtype=target.newbyteorder("<")).astype(target).reshape(shape)
    return np.frombuffer(data, dtype=target).reshape(shape)


def _unpack_6(raw: Array, shape: tuple[int, ...] | int) -> Array:
    import numpy as np

    bits = np.unpackbits(raw, bitorder="little")
    wanted = int(np.prod(shape, dtype=np.int64))
    six = bits[: wanted * 6].reshape(wanted, 6)
    codes: Array = (six << np.arange(6, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    return codes.reshape(shape)


def to_bytes(values: Array, dtype: DType) -> bytes:
    """A numpy array as the image of that element type: the inverse of `from_bytes`."""
    import numpy as np

    if dtype.bits % 8 == 0:
        plain = np.ascontiguousarray(values)
        return plain.astype(plain.dtype.newbyteorder("<")).tobytes() if sys.byteorder == "big" else plain.tobytes()
    codes = values.reshape(-1).view(np.uint8) & np.uint8((1 << dtype.bits) - 1)
    bits = np.unpackbits(codes.reshape(-1, 1), axis=1, bitorder="little")[:, : dtype.bits]
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()
