"""What the headers of objects are made of, spelled: datatypes, dataspaces, values of attributes, messages.

How they look stands where they are read: `datatype`, `storage`, `attributes`, `headers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING, Any

from ckptconv.core.dtypes import COMPONENT, DType
from ckptconv.core.spelling import is_utf8
from ckptconv.formats.hdf5.checksum import lookup3_of_each
from ckptconv.formats.hdf5.datatype import FLOATS, HIDDEN_BIT, INTS, Class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.core.metadata import MetaNode

UNDEFINED = (1 << 64) - 1
"""The address of what is nowhere."""

MOST_VALUE = 60_000
"""Bytes of an attribute's value: a message has at most 65,535."""

MOST_RANK = 32
_MOST_NAME = 4096

_UTF8, _STRING = 1, 1
_VARYING = 16
"""Bytes by which a string of varying length is represented: its length, and its place in a heap."""

_INT_OF = {dtype: key for key, dtype in INTS.items()}
_FLOAT_OF = {dtype: key for key, dtype in FLOATS.items()}
_PLAIN = {DType.I64: "q", DType.U64: "Q", DType.F64: "d"}


def spell_datatype(dtype: DType) -> bytes:
    """The datatype of a tensor's elements, as h5py has it: a bool an enum, a complex number a compound of r and i."""
    if dtype in _INT_OF:
        size, signed = _INT_OF[dtype]
        return _datatype(Class.FIXED, 1, 8 * signed, size) + pack("<HH", 0, 8 * size)
    if dtype in _FLOAT_OF:
        size, sign, exponent, width, mantissa, digits, bias = _FLOAT_OF[dtype]
        head = _datatype(Class.FLOAT, 1, HIDDEN_BIT | sign << 8, size) + pack("<HH", 0, 8 * size)
        return head + pack("<4BI", exponent, width, mantissa, digits, bias)
    if dtype is DType.BOOL:
        return _datatype(Class.ENUM, 3, 2, 1) + spell_datatype(DType.I8) + b"FALSE\0TRUE\0" + b"\0\1"
    part = COMPONENT[dtype]
    members = [(b"r\0", 0), (b"i\0", part.bits // 8)]
    inner = b"".join(name + bytes([place]) + spell_datatype(part) for name, place in members)
    return _datatype(Class.COMPOUND, 3, 2, 2 * part.bits // 8) + inner


def has_datatype(dtype: DType) -> bool:
    """Whether HDF5 has such elements."""
    part = COMPONENT.get(dtype, dtype)
    return dtype is DType.BOOL or part in _INT_OF or part in _FLOAT_OF


def _datatype(kind: Class, version: int, bits: int, size: int) -> bytes:
    return bytes([version << 4 | kind]) + bits.to_bytes(3, "little") + pack("<I", size)


_TEXT = _datatype(Class.VARIABLE, 1, _STRING | _UTF8 << 8, _VARYING) + spell_datatype(DType.U8)


def spell_space(shape: tuple[int, ...] | None) -> bytes:
    """The dataspace of a shape; None has no value at all."""
    if shape is None:
        return bytes([2, 0, 0, 2])
    return bytes([2, len(shape), 0, 1 if shape else 0]) + pack(f"<{len(shape)}Q", *shape)


@dataclass(frozen=True, slots=True)
class Said:
    """The value of an attribute: its type and shape, and its bytes, or the texts that are in a heap."""

    datatype: bytes
    shape: tuple[int, ...] | None
    data: bytes = b""
    texts: tuple[bytes, ...] = ()


def is_name(name: object) -> bool:
    """Whether an attribute can be called so."""
    return type(name) is str and is_utf8(name) and "\0" not in name and 0 < len(name.encode("utf-8")) < _MOST_NAME


def said(value: MetaNode) -> Said | None:
    """The value as an attribute that gives the very same back; None where there is none: of tuples, bytes, dicts, …"""
    if value is None:
        return Said(spell_datatype(DType.F64), None)
    if type(value) is list and not value:
        return Said(spell_datatype(DType.F64), (0,))
    flat = _flat(value)
    if flat is None or 0 in flat[0] or len(flat[0]) > MOST_RANK or len(flat[1]) * _VARYING > MOST_VALUE:
        return None
    shape, items = flat
    kinds = {type(item) for item in items}
    if kinds == {str}:
        texts = tuple(item.encode("utf-8", "surrogatepass") for item in items)
        return Said(_TEXT, shape, texts=texts) if all(is_utf8(one) and "\0" not in one for one in items) else None
    if kinds == {bool}:
        return Said(spell_datatype(DType.BOOL), shape, bytes(items))
    if kinds == {complex}:
        parts = [part for item in items for part in (item.real, item.imag)]
        return Said(spell_datatype(DType.C128), shape, pack(f"<{len(parts)}d", *parts))
    dtype = _numbers(kinds, items)
    return Said(spell_datatype(dtype), shape, pack(f"<{len(items)}{_PLAIN[dtype]}", *items)) if dtype else None


def _numbers(kinds: set[type], items: list[Any]) -> DType | None:
    if kinds == {float}:
        return DType.F64
    if kinds != {int}:
        return None
    least, most = min(items), max(items)
    if least >= -(2**63) and most < 2**63:
        return DType.I64
    return DType.U64 if least >= 0 and most < 2**64 else None


def _flat(value: MetaNode) -> tuple[tuple[int, ...], list[Any]] | None:
    """The shape of lists in lists, and what is in them; None where they are no block."""
    if type(value) is not list:
        return (), [value]
    rows = [_flat(item) for item in value]
    if not rows or rows[0] is None or any(row is None or row[0] != rows[0][0] for row in rows):
        return None
    return (len(rows), *rows[0][0]), [item for row in rows if row is not None for item in row[1]]


def spell_attribute(name: str, value: Said, in_heap: Callable[[bytes], tuple[int, int]]) -> bytes:
    """An attribute message. `in_heap` puts a text into a heap: the heap's address, and the text's number there."""
    raw, space = name.encode("utf-8") + b"\0", spell_space(value.shape)
    data = value.data
    for text in value.texts:
        data += pack("<IQI", len(text), *(in_heap(text) if text else (0, 0)))
    head = pack("<BBHHHB", 3, 0, len(raw), len(value.datatype), len(space), _UTF8)
    return head + raw + value.datatype + space + data


def spell_message(kind: int, data: bytes, *, constant: bool = False) -> bytes:
    """A message in an object header. `constant`: that it is never changed."""
    return pack("<BHB", kind, len(data), constant) + data


def spell_headers(objects: Sequence[bytes]) -> list[bytes]:
    """Object headers of version 2, of the messages of each."""
    heads = [b"OHDR" + bytes([2, 2]) + pack("<I", len(messages)) + messages for messages in objects]
    return [head + pack("<I", one) for head, one in zip(heads, lookup3_of_each(heads), strict=True)]


HEADER_ROOM = len(spell_headers([b""])[0])
"""Bytes of a header besides its messages."""
