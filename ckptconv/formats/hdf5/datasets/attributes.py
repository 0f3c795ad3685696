"""Attributes of groups and datasets, as Python values; datasets of text have such values, too.

    attribute   version 1: 1, 0, sizes of name, datatype and dataspace (u16 each), these three (each padded to 8 bytes),
                value;  2: 2, flags, the same without padding;  3: a character set after the sizes
    info        0, flags, [largest creation order u16], a fractal heap of attribute messages, and B-trees that list them

A variable-length string is stored as its length (u32), and the address and index of its bytes in a global heap.
"""

from __future__ import annotations

import struct
from math import prod
from typing import TYPE_CHECKING, Any

from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import MetaNode, Opaque
from ckptconv.formats.hdf5.datasets.datatype import SPACES, Element, Numbers, Other, Text, read_datatype
from ckptconv.formats.hdf5.datasets.storage import read_space
from ckptconv.formats.hdf5.structures import headers
from ckptconv.formats.hdf5.structures.btree import btree2_records
from ckptconv.formats.hdf5.structures.cursor import Cursor, damaged
from ckptconv.formats.hdf5.structures.fractal import FractalHeap
from ckptconv.formats.hdf5.structures.links import natural_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.hdf5.structures.headers import Header
    from ckptconv.formats.hdf5.structures.heaps import GlobalHeaps

_BY_NAME = 8
_CODES = {
    DType.I8: "b", DType.U8: "B", DType.I16: "h", DType.U16: "H", DType.I32: "i", DType.U32: "I", DType.I64: "q",
    DType.U64: "Q", DType.F16: "e", DType.F32: "f", DType.F64: "d", DType.BOOL: "?", DType.C64: "ff", DType.C128: "dd",
}  # fmt: skip


def attributes_of(header: Header, heaps: GlobalHeaps) -> dict[str, MetaNode]:
    """All attributes of an object: first those in its header, then dense ones, in creation order or by name.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    found: dict[str, MetaNode] = {}
    compact = [_parse_attribute(cursor, header, heaps) for cursor in header.cursors(headers.ATTRIBUTE, "an attribute")]
    for name, value in (*compact, *_dense_attributes(header, heaps)):
        if name in found:
            raise damaged(f"an object has two attributes {name!r}")
        found[name] = value
    return found


def _dense_attributes(header: Header, heaps: GlobalHeaps) -> Iterator[tuple[str, MetaNode]]:
    cursor = header.cursor(headers.ATTRIBUTE_INFO, "a list of attributes")
    if cursor is None:
        return
    cursor.expect(b"", 0)
    tracked = bool(cursor.uint(1) & 1)
    cursor.skip(2 * tracked)
    heap_address, tree = cursor.address(), cursor.address()
    if heap_address is None or tree is None:
        return
    heap, found = FractalHeap(header.file, heap_address), []
    for record in btree2_records(header.file, tree, _BY_NAME):
        key, flags, order = record.take(8), record.uint(1), record.uint(4)
        message = heap.object(key)
        if flags & 2:
            message = headers.resolve_shared(header.file, headers.ATTRIBUTE, message)
        found.append((order, *_parse_attribute(message, header, heaps)))
    if tracked:
        found.sort(key=lambda entry: entry[0])
    else:
        found.sort(key=lambda entry: natural_key(entry[1]))
    yield from ((name, value) for _, name, value in found)


def _parse_attribute(cursor: Cursor, header: Header, heaps: GlobalHeaps) -> tuple[str, MetaNode]:
    version = cursor.expect(b"", 1, 2, 3)
    flags = cursor.uint(1)
    sizes = [cursor.uint(2) for _ in range(3)]
    cursor.skip(1 if version == 3 else 0)
    parts = []
    for size in sizes:
        parts.append(cursor.part(size, "an attribute"))
        cursor.skip(min(-size % 8 if version == 1 else 0, cursor.left))
    name = parts[0].take(parts[0].left).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    kinds = (headers.DATATYPE, headers.DATASPACE)
    datatype, space = (
        headers.resolve_shared(header.file, kind, part) if version > 1 and flags >> i & 1 else part
        for i, (kind, part) in enumerate(zip(kinds, parts[1:], strict=True))
    )
    element, shape = read_datatype(datatype), read_space(space).shape
    heaps.count_text(len(name))
    if shape is None:
        return name, None
    return name, value_of(element, shape, cursor, heaps)


def value_of(element: Element, shape: tuple[int, ...], cursor: Cursor, heaps: GlobalHeaps) -> MetaNode:
    """A value, or nested lists of values; `Opaque` for elements other than numbers or text. Raises CorruptFileError."""
    count = prod(shape)
    nbytes = count * element.size
    if nbytes > cursor.left:
        raise damaged(f"{cursor.what} has {cursor.left:,} bytes, and its type and shape ask for {nbytes:,}")
    match element:
        case Numbers(dtype) if dtype in _CODES:
            values = _numbers(element, cursor.take(nbytes))
        case Text():
            values = [_text(element, cursor, heaps) for _ in range(count)]
        case _:
            return Opaque("hdf5.attribute", "unread", (_describe(element),))
    heaps.count_text(8 * count)
    return _nested(values, shape)


def _describe(element: Element) -> str:
    return element.what if isinstance(element, Other) else "numbers that Python has no type for"


def _numbers(element: Numbers, data: bytes) -> list[Any]:
    code = _CODES[element.dtype]
    count = len(data) // struct.calcsize("<" + code[0])
    values = list(struct.unpack(f"{'>' if element.swapped else '<'}{count}{code[0]}", data))
    return [complex(*pair) for pair in zip(values[::2], values[1::2], strict=True)] if len(code) > 1 else values


def _text(element: Text, cursor: Cursor, heaps: GlobalHeaps) -> str | bytes:
    if element.varies:
        length, address, index = cursor.uint(4), cursor.address(), cursor.uint(4)
        raw = heaps.value(address, index, length) if length and address else b""
        heaps.count_text(length)
        raw = raw.split(b"\0", 1)[0]
    else:
        heaps.count_text(element.size)
        raw = cursor.take(element.size)
        raw = raw.rstrip(b" " if element.padding == SPACES else b"\0") if element.padding else raw.split(b"\0", 1)[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _nested(values: list[Any], shape: tuple[int, ...]) -> MetaNode:
    if not shape:
        return values[0]
    if 0 in shape:
        return []
    for size in reversed(shape[1:]):
        values = [values[start : start + size] for start in range(0, len(values), size)]
    return values
