"""Reads the heads of MessagePack objects from a file, and skips data without reading it. Objects by their first byte:

    00…7f   an integer, 0 to 127              e0…ff   an integer, -32 to -1
    cc…cf   unsigned, 1, 2, 4, 8 bytes        d0…d3   signed, 1, 2, 4, 8 bytes
    ca cb   a float of 4, of 8 bytes          c0  nil        c2 c3   false, true        c1   never used
    a0…bf   a str of 0 to 31 bytes            d9 da db   its length in 1, 2, 4 bytes; UTF-8
                                              c4 c5 c6   bytes, likewise
    90…9f   an array of 0 to 15 objects       dc dd      their number in 2, 4 bytes
    80…8f   a map of 0 to 15 pairs            de df      likewise; each pair a key, a value
    d4…d8   an extension of 1, 2, 4, 8, 16 bytes         a byte for its type, signed, stands before them
                                              c7 c8 c9   its length in 1, 2, 4 bytes, the type, the bytes

All numbers are big-endian.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Literal

from ckptconv.errors import CorruptFileError, LimitError
from ckptconv.io.limits import MAX_MSGPACK_TEXT

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.io.source import Source

FIRST = 256
"""The size of the first read, also behind skipped bytes: mostly the next header, and little more."""

MOST = 1 << 16
"""The size of the largest read ahead."""

Kind = Literal["value", "uint", "int", "float", "str", "bytes", "array", "map", "extension"]

_FLOATS = {4: Struct(">f"), 8: Struct(">d")}


def _heads() -> list[tuple[Kind, int, MetaNode] | None]:
    """For each first byte: the kind, the width of the number that follows, and the number itself if none follows."""
    heads: list[tuple[Kind, int, MetaNode] | None] = [None] * 256
    for code in range(256):
        if code < 0x80 or code >= 0xE0:
            heads[code] = "value", 0, code if code < 0x80 else code - 256
        elif code < 0xC0:
            kind: Kind = "map" if code < 0x90 else "array" if code < 0xA0 else "str"
            heads[code] = kind, 0, code & (31 if kind == "str" else 15)
    for code, value in {0xC0: None, 0xC2: False, 0xC3: True}.items():
        heads[code] = "value", 0, value
    rows: list[tuple[int, Kind, tuple[int, ...]]] = [
        (0xC4, "bytes", (1, 2, 4)), (0xC7, "extension", (1, 2, 4)), (0xCA, "float", (4, 8)),
        (0xCC, "uint", (1, 2, 4, 8)), (0xD0, "int", (1, 2, 4, 8)), (0xD9, "str", (1, 2, 4)),
        (0xDC, "array", (2, 4)), (0xDE, "map", (2, 4)),
    ]  # fmt: skip
    for start, kind, widths in rows:
        for code, width in enumerate(widths, start):
            heads[code] = kind, width, None
    for code, length in enumerate((1, 2, 4, 8, 16), 0xD4):
        heads[code] = "extension", 0, length
    return heads


_HEADS = _heads()


class Cursor:
    """Reads heads from the start of a file on, in windows that grow.

    ended: whether the file turned out to be cut short.
    """

    def __init__(self, source: Source) -> None:
        self.ended = False
        self._source = source
        self._data = b""
        self._at = 0
        self._base = 0
        self._chunk = FIRST
        self._text = 0

    @property
    def position(self) -> int:
        """The offset in the file of the next byte."""
        return self._base + self._at

    @property
    def left(self) -> int:
        """The number of bytes up to the end of the file."""
        return self._source.size - self.position

    def head(self) -> tuple[Kind, Any]:
        """The next head: ``"value"`` and the value; or the kind of an object, and its length or number of items."""
        if self._at >= len(self._data):
            self._buffer(1)
        head = _HEADS[self._data[self._at]]
        if head is None:
            raise self.bad("there is a byte 0xc1, which msgpack never uses")
        self._at += 1
        kind, width, value = head
        if not width:
            return kind, value
        data = self._take(width)
        if kind == "float":
            return "value", _FLOATS[width].unpack(data)[0]
        number = int.from_bytes(data, "big", signed=kind == "int")
        return ("value" if kind in ("int", "uint") else kind), number

    def number(self, width: int, *, signed: bool = False) -> int:
        """The next number, of `width` bytes."""
        return int.from_bytes(self._take(width), "big", signed=signed)

    def text(self, length: int) -> bytes:
        """The next bytes, of a value that is kept. Raises LimitError if such values are too long in all."""
        if length > self.left:
            raise self.cut(f"{length:,} bytes of text")
        self._count_kept(length)
        return self._take(length)

    def skip(self, length: int) -> int:
        """Skip bytes without reading them. Returns the offset of the first."""
        start = self.position
        if length > self._source.size - start:
            raise self.cut(f"{length:,} bytes")
        self._at += length
        if self._at > len(self._data):
            self._base, self._data, self._at, self._chunk = start + length, b"", 0, FIRST
        return start

    def again(self, start: int, length: int) -> bytes:
        """Bytes that were skipped before, of a value that is kept after all."""
        self._count_kept(length)
        return bytes(self._source.read_at(start, length))

    def bad(self, what: str) -> CorruptFileError:
        """An error for the byte at the current position."""
        return CorruptFileError(f"byte {self.position:,}: {what}")

    def cut(self, what: str) -> CorruptFileError:
        """The error for a file that ends before `what` should follow."""
        self.ended = True
        size = self._source.size
        return CorruptFileError(
            f"the file is cut short: {what} should follow byte {self.position:,}, and it ends at byte {size:,}"
        )

    def _count_kept(self, length: int) -> None:
        self._text += length
        if self._text > MAX_MSGPACK_TEXT:
            raise LimitError(f"its strings and bytes that are not arrays are more than {MAX_MSGPACK_TEXT:,} bytes")

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            self._buffer(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _buffer(self, count: int) -> None:
        """Make sure that the next `count` bytes are in memory."""
        end = self._base + len(self._data)
        missing = count - (len(self._data) - self._at)
        if missing > self._source.size - end:
            raise self.cut("more")
        more = self._source.read_at(end, min(max(missing, self._chunk), self._source.size - end))
        self._data = self._data[self._at :] + bytes(more)
        self._base += self._at
        self._at = 0
        self._chunk = min(2 * self._chunk, MOST)
