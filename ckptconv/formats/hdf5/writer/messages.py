"""Encodes object headers and their messages: datatypes, dataspaces, attributes.

The modules that read these describe their layout: `datatype`, `storage`, `attributes`, `headers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING, Any

from ckptconv.core.dtypes import COMPONENT, DType
from ckptconv.core.spelling import is_utf8
from ckptconv.formats.hdf5.datasets.datatype import FLOATS, HIDDEN_BIT, INTS, Class
from ckptconv.formats.hdf5.structures.checksum import lookup3_of_each

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.core.metadata import MetaNode

UNDEFINED = (1 << 64) - 1
"""The undefined address."""

MAX_VALUE = 60_000
"""The longest value of an attribute, in bytes; a whole message has at most 65,535."""

MAX_RANK = 32
_MAX_NAME = 4096

_UTF8, _STRING = 1, 1
_VARYING = 16
"""Bytes of a variable-length string's reference: its length, and its place in a heap."""

_INT_OF = {dtype: key for key, dtype in INTS.items()}
_FLOAT_OF = {dtype: key for key, dtype in FLOATS.items()}
_PLAIN = {DType.I64: "q", DType.U64: "Q", DType.F64: "d"}


def encode_datatype(dtype: DType) -> bytes:
    """The datatype of a tensor's elements, as in h5py: an enum for bools, a compound of r and i for complex numbers."""
    if dtype in _INT_OF:
        size, signed = _INT_OF[dtype]
        return _datatype(Class.FIXED, 1, 8 * signed, size) + pack("<HH", 0, 8 * size)
    if dtype in _FLOAT_OF:
        size, sign, exponent, width, mantissa, digits, bias = _FLOAT_OF[dtype]
        head = _datatype(Class.FLOAT, 1, HIDDEN_BIT | sign << 8, size) + pack("<HH", 0, 8 * size)
        return head + pack("<4BI", exponent, width, mantissa, digits, bias)
    if dtype is DType.BOOL:
        return _datatype(Class.ENUM, 3, 2, 1) + encode_datatype(DType.I8) + b"FALSE\0TRUE\0" + b"\0\1"
    part = COMPONENT[dtype]
    members = [(b"r\0", 0), (b"i\0", part.bits // 8)]
    inner = b"".join(name + bytes([place]) + encode_datatype(part) for name, place in members)
    return _datatype(Class.COMPOUND, 3, 2, 2 * part.bits // 8) + inner


def has_datatype(dtype: DType) -> bool:
    """Whether HDF5 has a datatype for these elements."""
    part = COMPONENT.get(dtype, dtype)
    return dtype is DType.BOOL or part in _INT_OF or part in _FLOAT_OF


def _datatype(kind: Class, version: int, bits: int, size: int) -> bytes:
    return bytes([version << 4 | kind]) + bits.to_bytes(3, "little") + pack("<I", size)


_TEXT = _datatype(Class.VARIABLE, 1, _STRING | _UTF8 << 8, _VARYING) + encode_datatype(DType.U8)


def encode_space(shape: tuple[int, ...] | None) -> bytes:
    """The dataspace of a shape; None for no elements at all."""
    if shape is None:
        return bytes([2, 0, 0, 2])
    return bytes([2, len(shape), 0, 1 if shape else 0]) + pack(f"<{len(shape)}Q", *shape)


@dataclass(frozen=True, slots=True)
class AttributeValue:
    """The encoded value of an attribute: its type and shape, and either its bytes or the texts that go into a heap."""

    datatype: bytes
    shape: tuple[int, ...] | None
    data: bytes = b""
    texts: tuple[bytes, ...] = ()


def is_name(name: object) -> bool:
    """Whether an attribute can have this name."""
    return type(name) is str and is_utf8(name) and "\0" not in name and 0 < len(name.encode("utf-8")) < _MAX_NAME


def attribute_value(value: MetaNode) -> AttributeValue | None:
    """Encode a value so that it is read back exactly. None if attributes can't do that: for tuples, bytes, dicts, …"""
    if value is None:
        return AttributeValue(encode_datatype(DType.F64), None)
    if type(value) is list and not value:
        return AttributeValue(encode_datatype(DType.F64), (0,))
    flat = _flatten(value)
    if flat is None:
        return None
    shape, items = flat
    if 0 in shape or len(shape) > MAX_RANK or len(items) * _VARYING > MAX_VALUE:
        return None
    kinds = {type(item) for item in items}
    if kinds == {str}:
        if not all(is_utf8(text) and "\0" not in text for text in items):
            return None
        return AttributeValue(_TEXT, shape, texts=tuple(text.encode("utf-8") for text in items))
    if kinds == {bool}:
        return AttributeValue(encode_datatype(DType.BOOL), shape, bytes(items))
    if kinds == {complex}:
        parts = [part for item in items for part in (item.real, item.imag)]
        return AttributeValue(encode_datatype(DType.C128), shape, pack(f"<{len(parts)}d", *parts))
    dtype = _number_dtype(kinds, items)
    if dtype is None:
        return None
    return AttributeValue(encode_datatype(dtype), shape, pack(f"<{len(items)}{_PLAIN[dtype]}", *items))


def _number_dtype(kinds: set[type], items: list[Any]) -> DType | None:
    """The dtype for a list of floats or ints; None for other values, and ints that don't fit into 64 bits."""
    if kinds == {float}:
        return DType.F64
    if kinds != {int}:
        return None
    least, most = min(items), max(items)
    if least >= -(2**63) and most < 2**63:
        return DType.I64
    return DType.U64 if least >= 0 and most < 2**64 else None


def _flatten(value: MetaNode) -> tuple[tuple[int, ...], list[Any]] | None:
    """The shape and the items of nested lists; None if the lists of one level differ in shape."""
    if type(value) is not list:
        return (), [value]
    rows = [_flatten(item) for item in value]
    if not rows or rows[0] is None or any(row is None or row[0] != rows[0][0] for row in rows):
        return None
    return (len(rows), *rows[0][0]), [item for row in rows if row is not None for item in row[1]]


def encode_attribute(name: str, value: AttributeValue, heap_place: Callable[[bytes], tuple[int, int]]) -> bytes:
    """An attribute message. `heap_place` gives the place of a text: the address of its heap, and its number there."""
    raw, space = name.encode("utf-8") + b"\0", encode_space(value.shape)
    data = value.data
    for text in value.texts:
        data += pack("<IQI", len(text), *(heap_place(text) if text else (0, 0)))
    head = pack("<BBHHHB", 3, 0, len(raw), len(value.datatype), len(space), _UTF8)
    return head + raw + value.datatype + space + data


def encode_message(kind: int, data: bytes, *, constant: bool = False) -> bytes:
    """A message in an object header; `constant` marks it as one that is never changed."""
    return pack("<BHB", kind, len(data), constant) + data


def encode_headers(objects: Sequence[bytes]) -> list[bytes]:
    """Object headers of version 2, from the encoded messages of each object."""
    heads = [b"OHDR" + bytes([2, 2]) + pack("<I", len(messages)) + messages for messages in objects]
    return [head + pack("<I", checksum) for head, checksum in zip(heads, lookup3_of_each(heads), strict=True)]


HEADER_ROOM = len(encode_headers([b""])[0])
"""The bytes of a header without its messages."""
