"""Datatype messages: the type of a dataset's elements, or of an attribute's value.

    class and version   u8, the class in the lower half
    class bits          3 bytes: byte order, sign, padding, character set, number of members
    size                u32, bytes of an element
    properties          of the class; the members of a compound and the base of an enum are datatypes themselves

Floats have no names: they are recognised by the places of sign, exponent and mantissa, which covers half precision,
bfloat16 and the 8-bit floats of HDF5 2. h5py stores a bool as an enum of FALSE and TRUE, a complex number as a compound
of r and i, and what numpy has no type for (bfloat16) as opaque bytes, whose type Keras states in an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import COMPONENT, DType
from ckptconv.errors import LimitError
from ckptconv.formats.hdf5.structures.cursor import damaged

if TYPE_CHECKING:
    from ckptconv.formats.hdf5.structures.cursor import Cursor


class Class(IntEnum):
    """The classes of datatypes, by number."""

    FIXED = 0
    FLOAT = 1
    TIME = 2
    STRING = 3
    BITS = 4
    OPAQUE = 5
    COMPOUND = 6
    REFERENCE = 7
    ENUM = 8
    VARIABLE = 9
    ARRAY = 10
    COMPLEX = 11


SPACES = 2
_MOST_NESTED = 16

INTS = {
    (size, signed): DType.__dict__[f"{'I' if signed else 'U'}{8 * size}"]
    for size in (1, 2, 4, 8) for signed in (False, True)
}  # fmt: skip

FLOATS = {
    # size in bytes; in bits: place of the sign, place and width of exponent and mantissa; bias of the exponent
    (2, 15, 10, 5, 0, 10, 15): DType.F16,
    (2, 15, 7, 8, 0, 7, 127): DType.BF16,
    (4, 31, 23, 8, 0, 23, 127): DType.F32,
    (8, 63, 52, 11, 0, 52, 1023): DType.F64,
    (1, 7, 3, 4, 0, 3, 7): DType.F8_E4M3,
    (1, 7, 2, 5, 0, 2, 15): DType.F8_E5M2,
}
_NORMALIZED, HIDDEN_BIT = 7 << 4, 2 << 4
"""The class bits for the mantissa's normalization and for VAX byte order; IEEE's value, an implied first bit."""

_COMPLEX = {component: dtype for dtype, component in COMPONENT.items()}


@dataclass(frozen=True, slots=True)
class Numbers:
    """Elements that are numbers.

    swapped: whether they are big-endian.
    was:     what they are in the file, if they are read as something else: "an enum", "opaque bytes".
    """

    dtype: DType
    swapped: bool = False
    was: str = ""

    @property
    def size(self) -> int:
        """The bytes of an element in the file."""
        return self.dtype.bits // 8

    @property
    def part(self) -> int:
        """The bytes of a number in an element; a complex element has two numbers."""
        return COMPONENT.get(self.dtype, self.dtype).bits // 8


@dataclass(frozen=True, slots=True)
class Text:
    """Strings.

    size:    the bytes of an element.
    varies:  whether strings have variable lengths; they are then in a heap, and an element refers to one.
    padding: what follows a shorter string: 0 a NUL and anything, 1 NULs, 2 spaces.
    """

    size: int
    varies: bool = False
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Other:
    """Elements that are not supported; `what` they are, in words."""

    size: int
    what: str


Element = Numbers | Text | Other


def read_datatype(cursor: Cursor, nested: int = 0) -> Element:
    """Parse the datatype at the cursor, which moves to its end. Raises CorruptFileError, LimitError."""
    if nested > _MOST_NESTED:
        raise LimitError(f"a datatype is made of others more than {_MOST_NESTED} deep")
    kind_and_version, bits, size = cursor.uint(1), cursor.uint(3), cursor.uint(4)
    kind, version = kind_and_version & 15, kind_and_version >> 4
    if not 1 <= version <= 5 or not size:
        raise damaged(f"a datatype has version {version} and {size} bytes")
    match kind:
        case Class.FIXED | Class.BITS:
            return _integer(cursor, bits, size, signed=kind == Class.FIXED and bool(bits & 8))
        case Class.FLOAT:
            return _float(cursor, bits, size)
        case Class.STRING:
            return Text(size, padding=bits & 15)
        case Class.OPAQUE:
            return _opaque(cursor, bits, size)
        case Class.COMPOUND:
            return _compound(cursor, version, bits & 0xFFFF, size, nested)
        case Class.ENUM:
            return _enum(cursor, version, bits & 0xFFFF, size, nested)
        case Class.VARIABLE:
            return _variable(cursor, bits, size, nested)
        case Class.ARRAY:
            return _array(cursor, version, size, nested)
        case Class.COMPLEX:
            base = read_datatype(cursor, nested + 1)
            return _complex(base, size) or Other(size, "complex numbers of a kind that is not known")
        case Class.TIME:
            cursor.skip(2)
            return Other(size, "times")
        case Class.REFERENCE:
            return Other(size, "references to other parts of the file")
        case _:
            raise damaged(f"a datatype is of class {kind}, which is not known")


def _integer(cursor: Cursor, bits: int, size: int, *, signed: bool) -> Element:
    place, precision = cursor.uint(2), cursor.uint(2)
    if place or precision != 8 * size or (size, signed) not in INTS:
        return Other(size, f"integers of {precision} bits in {size} bytes")
    return Numbers(INTS[size, signed], bool(bits & 1) and size > 1)


def _float(cursor: Cursor, bits: int, size: int) -> Element:
    place, precision = cursor.uint(2), cursor.uint(2)
    exponent, width, mantissa, digits, bias = (*(cursor.uint(1) for _ in range(4)), cursor.uint(4))
    dtype = FLOATS.get((size, bits >> 8 & 0xFF, exponent, width, mantissa, digits, bias))
    if dtype is None or place or precision != 8 * size or bits & _NORMALIZED != HIDDEN_BIT:
        return Other(size, f"floats of {precision} bits in {size} bytes that are not IEEE's")
    return Numbers(dtype, bool(bits & 1) and size > 1)


def _opaque(cursor: Cursor, bits: int, size: int) -> Element:
    tag = cursor.take(bits & 0xFF).split(b"\0", 1)[0].decode("latin-1")
    if size == 2 and not tag:
        return Numbers(DType.BF16, was="opaque bytes")
    return Other(size, f"opaque bytes tagged {tag!r}" if tag else f"opaque bytes, {size} each")


def _variable(cursor: Cursor, bits: int, size: int, nested: int) -> Element:
    if size != 8 + cursor.offsets:
        raise damaged(f"a datatype of varying length has {size} bytes")
    read_datatype(cursor, nested + 1)
    if bits & 15 == 1:
        return Text(size, varies=True)
    return Other(size, "sequences of varying length")


def _array(cursor: Cursor, version: int, size: int, nested: int) -> Element:
    rank = cursor.uint(1)
    cursor.skip((3 if version < 3 else 0) + 4 * rank * (2 if version < 3 else 1))
    read_datatype(cursor, nested + 1)
    return Other(size, "arrays in each element")


def _enum(cursor: Cursor, version: int, count: int, size: int, nested: int) -> Element:
    base = read_datatype(cursor, nested + 1)
    names = [cursor.text(8 if version < 3 else 1) for _ in range(count)]
    if base.size != size:
        raise damaged("an enum is of another size than its base")
    values = [cursor.take(size) for _ in range(count)]
    if not isinstance(base, Numbers) or base.dtype.kind not in ("int", "uint"):
        return Other(size, "an enum of no integers")
    if dict(zip(names, values, strict=True)) == {b"FALSE": b"\0", b"TRUE": b"\1"}:
        return Numbers(DType.BOOL)
    return Numbers(base.dtype, base.swapped, "an enum")


def _compound(cursor: Cursor, version: int, count: int, size: int, nested: int) -> Element:
    width = 4 if version < 3 else (size.bit_length() + 7) // 8
    members = []
    for _ in range(count):
        name, place = cursor.text(8 if version < 3 else 1), cursor.uint(width)
        if version == 1:
            rank = cursor.uint(1)
            cursor.skip(27)
            member = read_datatype(cursor, nested + 1)
            members.append((name, place, Other(member.size, "arrays") if rank else member))
        else:
            members.append((name, place, read_datatype(cursor, nested + 1)))
    if len(members) == 2 and members[0][2] == members[1][2]:
        (real, start, part), (imaginary, middle, _) = members
        if (real, imaginary, start, middle) == (b"r", b"i", 0, part.size):
            return _complex(part, size) or Other(size, "records with fields")
    return Other(size, "records with fields")


def _complex(part: Element, size: int) -> Numbers | None:
    if isinstance(part, Numbers) and part.dtype in _COMPLEX and size == 2 * part.size:
        return Numbers(_COMPLEX[part.dtype], part.swapped)
    return None
