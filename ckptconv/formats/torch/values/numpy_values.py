"""numpy's pickled scalars, arrays and dtypes, as data.

Sources: numpy/_core/multiarray (`_reconstruct`, `scalar`), numpy/_core/numeric (`_frombuffer`);
jax/_src/array.py (`_reconstruct_array`); dill/_dill.py (`_create_array`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.arrays import NUMPY_CODED, NUMPY_NAMES
from ckptconv.core.metadata import NumpyArray, NumpyScalar
from ckptconv.formats.torch.pickle import Elided, Global, UnbuiltObject
from ckptconv.formats.torch.values.stubs import exact_sizes

if TYPE_CHECKING:
    from ckptconv.core.dtypes import DType
    from ckptconv.formats.torch.pickle import Value

ELEMENT_CLASSES = {
    name: dtype for dtype, name in NUMPY_NAMES.items() if name.startswith("ml_dtypes.") and dtype.bits >= 8
}
"""Classes that are element types in numpy. numpy stores narrower ones in a byte each, unlike files, which pack them."""

MEMMAP = "numpy.memmap"
MEMMAPS = frozenset([MEMMAP, "numpy.core.memmap.memmap", "numpy._core.memmap.memmap"])
"""numpy's class of memory-mapped arrays, in its various modules. Their pickles contain the elements, and name the class
for `_reconstruct`, which makes an ordinary array and no file.
"""

RECONSTRUCT = frozenset(["numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"])
"""numpy's function that makes an empty array, which then gets its state."""


@dataclass(slots=True, eq=False)
class NumpyDType:
    """``numpy.dtype(code)``. Its byte order comes later, as its state.

    code:  numpy's code, such as ``f4``, or a class from ml_dtypes, such as ``ml_dtypes.bfloat16``.
    order: numpy's mark for the byte order.
    plain: whether it has neither fields nor a subarray, and no datetime unit.
    """

    code: str
    order: str = "|"
    plain: bool = True

    @property
    def itemsize(self) -> int:
        """Bytes of an element; 0 if numpy has no code for the type."""
        digits = self.code[1:]
        if not self.plain or self.code[:1] not in "biufcSUVmM" or not digits.isdigit():
            return 0
        return int(digits) * (4 if self.code[0] == "U" else 1)

    @property
    def element(self) -> DType | None:
        """The same as a tensor's element type; None if a tensor cannot have it."""
        return (NUMPY_CODED.get(self.code) or ELEMENT_CLASSES.get(self.code)) if self.plain else None

    @property
    def spelled(self) -> str:
        return ("|" if self.itemsize == 1 or self.code[0] in "SV" else self.order.replace("=", "<")) + self.code


@dataclass(frozen=True, slots=True, eq=False)
class ArrayParts:
    """An array's header and its elements, in C order, or in Fortran order if `fortran`. `data` may be `Elided`."""

    dtype: NumpyDType
    shape: tuple[int, ...]
    data: bytes
    fortran: bool

    @property
    def nbytes(self) -> int:
        return self.data.span.length if isinstance(self.data, Elided) else len(self.data)

    def value(self) -> NumpyArray | None:
        """The array as metadata; None if numpy has no code for its element type. May read the file."""
        if not self.dtype.itemsize:
            return None
        return NumpyArray(self.dtype.spelled, self.shape, whole_bytes(self.data), self.fortran and len(self.shape) > 1)


@dataclass(slots=True, eq=False)
class NumpyStub:
    """A pickled array.

    parts: its header and elements; None before it gets its state, or if it is an array of objects.
    state: the pickled state.
    name:  the name of the tensor that it was, if its framework recorded one.
    """

    parts: ArrayParts | None = None
    state: Value = None
    name: str | None = None

    def set_state(self, state: Value) -> None:
        """``ndarray.__setstate__``. Raises ValueError if the data does not have the size of the shape."""
        self.state = state
        match state:
            case (int(), shape, NumpyDType() as dtype, fortran, bytes() | str() as data) if width(dtype):
                self.parts = _array_parts(dtype, exact_sizes(shape), data, bool(fortran))
            case _:
                self.parts = None


def is_memmap(value: Value) -> bool:
    """Whether a value is the stand-in for numpy's memmap class, unchanged."""
    return isinstance(value, UnbuiltObject) and value.name == MEMMAP and value.how == "object"


def width(dtype: NumpyDType) -> int:
    """Bytes of an element; 0 if that is not known."""
    return dtype.element.bits // 8 if dtype.element else dtype.itemsize


def whole_bytes(data: Value) -> bytes:
    """The bytes themselves, read from the file if they are `Elided`. A Python 2 str is bytes."""
    value = data.whole() if isinstance(data, Elided) else data
    return value.encode("utf-8") if isinstance(value, str) else bytes(value)


def numpy_dtype(code: Value, align: Value = False, copy: Value = True) -> Value:
    """``numpy.dtype(code)``; NotImplemented for classes other than those of ml_dtypes."""
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


def numpy_reconstruct(cls: Value, *args: Value) -> Value:
    """``numpy._core.multiarray._reconstruct(class, shape, code)``. With objects as arguments it would call their
    methods.
    """
    is_object = isinstance(cls, UnbuiltObject) and not is_memmap(cls)
    return NotImplemented if is_object or any(isinstance(arg, UnbuiltObject) for arg in args) else NumpyStub()


def whole_array(function: Value, args: Value, state: Value) -> Value:
    """An array that another package's function makes and fills in one call: JAX's ``_reconstruct_array``, dill's
    ``_create_array``. NotImplemented if it would call anything but numpy's.
    """
    if not isinstance(function, Global) or str(function) not in RECONSTRUCT or type(args) is not tuple:
        return NotImplemented
    made = numpy_reconstruct(*args)
    if isinstance(made, NumpyStub):
        made.set_state(state)
    return made


def numpy_frombuffer(buffer: Value, dtype: Value, shape: Value, order: Value) -> Value:
    """``numpy._core.numeric._frombuffer``, for arrays in protocol 5; NotImplemented for dtypes that are not plain."""
    if not isinstance(dtype, NumpyDType) or not width(dtype) or not isinstance(buffer, (bytes, bytearray)):
        return NotImplemented
    data = bytes(buffer) if isinstance(buffer, bytearray) else buffer
    return NumpyStub(_array_parts(dtype, exact_sizes(shape), data, order == "F"))


def _array_parts(dtype: NumpyDType, shape: tuple[int, ...], data: bytes | str, fortran: bool) -> ArrayParts:
    """An array from its parts. Raises ValueError if its data does not have the size of its shape.

    A str is a Python 2 str that happened to be valid UTF-8. numpy would read it as Latin-1; the size tells which
    encoding gives the array's bytes.
    """
    nbytes = prod(shape) * width(dtype)
    if isinstance(data, str):
        utf8 = data.encode("utf-8", "surrogatepass")
        data = utf8 if len(utf8) == nbytes else data.encode("latin-1")
    parts = ArrayParts(dtype, shape, data, fortran)
    if min(shape, default=0) < 0 or parts.nbytes != nbytes:
        raise ValueError("a numpy array's data does not have the size of its shape")
    return parts
