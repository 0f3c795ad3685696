"""numpy's pickled scalars, arrays and dtypes, as data.

Sources: numpy/_core/multiarray (`_reconstruct`, `scalar`), numpy/_core/numeric (`_frombuffer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.metadata import NumpyArray, NumpyScalar
from ckptconv.formats.torch.stubs import exact_sizes

if TYPE_CHECKING:
    from ckptconv.formats.torch.pickle import Value


@dataclass(slots=True, eq=False)
class NumpyDType:
    """``numpy.dtype(code)``, still without its byte order, which comes as state."""

    code: str
    order: str = "|"
    plain: bool = True

    @property
    def itemsize(self) -> int:
        digits = self.code[1:]
        if not self.plain or self.code[:1] not in "biufcSUVmM" or not digits.isdigit():
            return 0
        return int(digits) * (4 if self.code[0] == "U" else 1)

    @property
    def spelled(self) -> str:
        return ("|" if self.itemsize == 1 or self.code[0] in "SV" else self.order.replace("=", "<")) + self.code


@dataclass(slots=True, eq=False)
class NumpyStub:
    """A pickled array, before and after it is given its state; None while it has none, or holds objects."""

    array: NumpyArray | None = None
    state: Value = None


def numpy_dtype(code: str, align: Value = False, copy: Value = True) -> NumpyDType:
    """``numpy.dtype(code)``."""
    if type(code) is not str:
        raise TypeError("a numpy dtype's code is no string")
    return NumpyDType(code)


def numpy_scalar(dtype: Value, data: Value = None) -> Value:
    """``numpy._core.multiarray.scalar(dtype, bytes)``; NotImplemented for dtypes that are not plain."""
    if not isinstance(dtype, NumpyDType) or not dtype.itemsize or not isinstance(data, bytes):
        return NotImplemented
    if len(data) != dtype.itemsize:
        raise ValueError("a numpy scalar has the wrong length")
    return NumpyScalar(dtype.spelled, data)


def numpy_frombuffer(buffer: Value, dtype: Value, shape: Value, order: Value) -> Value:
    """How protocol 5 spells an array; NotImplemented for dtypes that are not plain."""
    if not isinstance(dtype, NumpyDType) or not dtype.itemsize or not isinstance(buffer, (bytes, bytearray)):
        return NotImplemented
    return NumpyStub(numpy_array(dtype, exact_sizes(shape), bytes(buffer), order == "F"))


def numpy_array(dtype: NumpyDType, shape: tuple[int, ...], data: bytes, fortran: bool) -> NumpyArray:
    """An array from its parts. Raises ValueError where its data has not the size of its shape."""
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != len(data):
        raise ValueError("a numpy array's data does not have the size of its shape")
    return NumpyArray(dtype.spelled, shape, data, fortran and len(shape) > 1)
