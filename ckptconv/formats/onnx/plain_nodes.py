"""A fast path for nodes that hold neither tensors nor graphs, as nearly all nodes do not.

It parses bytes in memory instead of fields in a file. Whatever it cannot parse, for any reason, is parsed again by
`walk`, which raises the error if there is one.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING

from ckptconv.formats.onnx.graph import Node, Range
from ckptconv.io.protobuf import FIXED32, LEN, VARINT
from ckptconv.io.varint import varint

if TYPE_CHECKING:
    from ckptconv.formats.onnx.wire import Window

MAX_PLAIN = 16 << 10
"""Bytes up to which a node is read whole."""

_NOT_PLAIN = frozenset((5, 6, 7, 10, 11, 14, 15, 22, 23))
"""Fields of an attribute that `walk` has to read: tensors, graphs, floats, types, sparse tensors."""

_LEFT_TO_WALK = (0, 10)
"""Fields of a node: a number that no field has, and a message that `walk` checks."""


def read_plain_node(window: Window, start: int, stop: int) -> Node | None:
    """Parse the node in ``[start, stop)`` of the file; None if that needs `walk`."""
    if stop - start > MAX_PLAIN:
        return None
    data = window.read(start, stop)
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    properties, attributes = list[Range](), list[Range]()
    at, size = 0, len(data)
    try:
        while at < size:
            tag, length, begin = data[at], data[at + 1], at + 2
            if tag & 0x87 != LEN or tag >> 3 in _LEFT_TO_WALK:
                return None
            if length > 0x7F:
                length, begin = varint(data, at + 1)
            at = begin + length
            number = tag >> 3
            if at > size:
                return None
            if number in texts:
                texts[number].append(data[begin:at].decode("utf-8"))
            elif number in (5, 9):
                if not _is_plain(data, begin, at):
                    return None
                (attributes if number == 5 else properties).append((start + begin, start + at))
    except (IndexError, UnicodeDecodeError, OverflowError):
        return None
    name, op, domain = (texts[number][-1] if texts[number] else "" for number in (3, 4, 7))
    return Node(
        intern(op), intern(domain), name, tuple(texts[1]), tuple(texts[2]), properties=tuple(properties),
        attributes=tuple(attributes),
    )  # fmt: skip


def _is_plain(data: bytes, at: int, stop: int) -> bool:
    """Whether an attribute is well formed and has no tensor, graph or floats. Raises IndexError past the end."""
    while at < stop:
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = varint(data, at - 1)
        wire = tag & 7
        if wire == LEN:
            length = data[at]
            at += 1
            if length > 0x7F:
                length, at = varint(data, at - 1)
            at += length
        elif wire == VARINT:
            _, at = varint(data, at)
        elif wire == FIXED32:
            at += 4
        else:
            return False
        if tag >> 3 in _NOT_PLAIN or tag < 8:
            return False
    return at == stop
