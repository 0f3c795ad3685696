"""numpy's pickled scalars, arrays and dtypes, as data.

Sources: numpy/_core/multiarray (`_reconstruct`, `scalar`), numpy/_core/numeric (`_frombuffer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.arrays import NUMPY_CODED, NUMPY_NAMES
from ckptconv.core.metadata import NumpyArray, NumpyScalar
from ckptconv.formats.torch.pickle import Elided, Global, Thing
from ckptconv.formats.torch.values.stubs import exact_sizes

if TYPE_CHECKING:
    from ckptconv.core.dtypes import DType
    from ckptconv.formats.torch.pickle import Value

ELEMENT_CLASSES = {
    name: dtype for dtype, name in NUMPY_NAMES.items() if name.startswith("ml_dtypes.") and dtype.bits >= 8
}
"""Classes that are element types of numpy's. Smaller ones take a byte each there, and are packed in every file."""

MEMMAP = "numpy.memmap"
MEMMAPS = frozenset([MEMMAP, "numpy.core.memmap.memmap", "numpy._core.memmap.memmap"])
"""Where numpy had the class of arrays in a mapped file. Their pickles have the elements in them, and name the class for
`_reconstruct`, which makes an array of it and no file.
"""


@dataclass(slots=True, eq=False)
class NumpyDType:
    """``numpy.dtype(code)``, still without its byte order, which comes as state.

    code: numpy's, such as ``f4``, or the class of an element type that ml_dtypes brings, ``ml_dtypes.bfloat16``.
    """

    code: str
    order: str = "|"
    plain: bool = True

    @property
    def itemsize(self) -> int:
        """Bytes of an element; 0 where numpy alone has no spelling for it."""
        digits = self.code[1:]
        if not self.plain or self.code[:1] not in "biufcSUVmM" or not digits.isdigit():
            return 0
        return int(digits) * (4 if self.code[0] == "U" else 1)

    @property
    def element(self) -> DType | None:
        """The element type of a tensor, if it is one."""
        return (NUMPY_CODED.get(self.code) or ELEMENT_CLASSES.get(self.code)) if self.plain else None

    @property
    def spelled(self) -> str:
        return ("|" if self.itemsize == 1 or self.code[0] in "SV" else self.order.replace("=", "<")) + self.code


@dataclass(frozen=True, slots=True, eq=False)
class ArrayParts:
    """An array's header and its elements, in C order, or in Fortran order if `fortran`; maybe still in their file."""

    dtype: NumpyDType
    shape: tuple[int, ...]
    data: bytes
    fortran: bool

    @property
    def nbytes(self) -> int:
        return self.data.span.length if isinstance(self.data, Elided) else len(self.data)

    def value(self) -> NumpyArray | None:
        """The array as metadata; None for element types that numpy alone has no spelling for. May read it."""
        if not self.dtype.itemsize:
            return None
        return NumpyArray(self.dtype.spelled, self.shape, whole_bytes(self.data), self.fortran and len(self.shape) > 1)


@dataclass(slots=True, eq=False)
class NumpyStub:
    """A pickled array, before and after it is given its state; `parts` is None while it has none, or holds objects.
    `name` is what the framework that it was a tensor of called it.
    """

    parts: ArrayParts | None = None
    state: Value = None
    name: str | None = None

    def set_state(self, state: Value) -> None:
        """``ndarray.__setstate__``. Raises ValueError where the data has not the size of the shape."""
        self.state = state
        match state:
            case (int(), shape, NumpyDType() as dtype, fortran, bytes() | str() as data) if width(dtype):
                self.parts = _array_parts(dtype, exact_sizes(shape), data, bool(fortran))
            case _:
                self.parts = None


def is_memmap(value: Value) -> bool:
    """Whether it is what stands for numpy's class of arrays in a mapped file, and nothing has changed that."""
    return isinstance(value, Thing) and value.name == MEMMAP and value.how == "object"


def width(dtype: NumpyDType) -> int:
    """Bytes of an element, 0 where that is not known."""
    return dtype.element.bits // 8 if dtype.element else dtype.itemsize


def whole_bytes(data: Value) -> bytes:
    """The bytes themselves, also where they were left in their file; Python 2's str is bytes."""
    value = data.whole() if isinstance(data, Elided) else data
    return value.encode("utf-8") if isinstance(value, str) else bytes(value)


def numpy_dtype(code: Value, align: Value = False, copy: Value = True) -> Value:
    """``numpy.dtype(code)``; NotImplemented for classes that are not of ml_dtypes."""
    if isinstance(code, Global) and str(code) in ELEMENT_CLASSES:
        return NumpyDType(str(code))
    if isinstance(code, Global) or not isinstance(align, int) or not isinstance(copy, int):
        return NotImplemented
    if type(code) is not str:
        raise TypeError("a numpy dtype's code is not a string")
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
    if not isinstance(dtype, NumpyDType) or not width(dtype) or not isinstance(buffer, (bytes, bytearray)):
        return NotImplemented
    data = bytes(buffer) if isinstance(buffer, bytearray) else buffer
    return NumpyStub(_array_parts(dtype, exact_sizes(shape), data, order == "F"))


def _array_parts(dtype: NumpyDType, shape: tuple[int, ...], data: bytes | str, fortran: bool) -> ArrayParts:
    """An array from its parts. Raises ValueError where its data has not the size of its shape.

    Text is Python 2's str. Where it could be read as UTF-8 it has been, else numpy would take it as Latin-1; only one
    of the two gives the right size.
    """
    nbytes = prod(shape) * width(dtype)
    if isinstance(data, str):
        utf8 = data.encode("utf-8", "surrogatepass")
        data = utf8 if len(utf8) == nbytes else data.encode("latin-1")
    parts = ArrayParts(dtype, shape, data, fortran)
    if min(shape, default=0) < 0 or parts.nbytes != nbytes:
        raise ValueError("a numpy array's data does not have the size of its shape")
    return parts
