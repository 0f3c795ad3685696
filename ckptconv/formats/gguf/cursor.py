"""Reads the numbers, strings and typed values of a GGUF header, in either byte order.

The file is read in pieces that grow, so that a short header costs one read and a vocabulary of megabytes a few.
"""

from __future__ import annotations

import sys
from array import array
from struct import Struct
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.gguf.values import FORMAT, TYPES, WIDTH, Typed
from ckptconv.io.limits import MAX_GGUF_HEADER, MAX_NODES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.metadata import MetaNode
    from ckptconv.io.source import Source

MAX_ARRAY_DEPTH = 8
CHUNK = 32 << 10
"""The size of the first read, in bytes."""


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the format."""
    return CorruptFileError(f"the GGUF header is invalid: {what}")


class Cursor:
    """Reads a header forwards from byte 4 of the file, just behind the magic."""

    def __init__(self, source: Source, *, big_endian: bool) -> None:
        self._source = source
        self._order = ">" if big_endian else "<"
        self._structs = {4: Struct(self._order + "I"), 8: Struct(self._order + "Q")}
        self._data = b""
        self._at = 0
        self._base = 4
        self._chunk = CHUNK
        self._items = 0

    @property
    def position(self) -> int:
        """The offset in the file of the next byte."""
        return self._base + self._at

    def _buffer(self, count: int) -> None:
        """Make sure that the next `count` bytes are in memory. Raises CorruptFileError, LimitError."""
        missing = count - (len(self._data) - self._at)
        if missing <= 0:
            return
        end = self._base + len(self._data)
        if missing > self._source.size - end:
            raise CorruptFileError("the file ends within its GGUF header")
        if self.position + count > MAX_GGUF_HEADER:
            raise LimitError(f"the header is longer than {MAX_GGUF_HEADER:,} bytes")
        more = self._source.read_at(end, min(max(missing, self._chunk), self._source.size - end))
        self._data = self._data[self._at :] + bytes(more)
        self._base += self._at
        self._at = 0
        self._chunk = min(2 * self._chunk, 4 << 20)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._buffer(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, width: int) -> int:
        """The next unsigned number, of `width` bytes: 4 or 8."""
        self._buffer(width)
        (value,) = self._structs[width].unpack_from(self._data, self._at)
        self._at += width
        return int(value)

    def name(self, what: str) -> str:
        """The next string, which has to be UTF-8; `what` it names is for the error."""
        try:
            return self.take(self.number(8)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise bad(f"a {what} is not UTF-8") from error

    def value(self, code: int, depth: int = 0) -> Typed:
        """The next metadata value, of the type `code`, with the type's name."""
        name = _type_name(code)
        if name == "string":
            return name, self.take(self.number(8)).decode("utf-8", "surrogateescape")
        if name == "array":
            return self._array(depth)
        (value,) = self._numbers_or_bools(name, 1)
        return name, value

    def _array(self, depth: int) -> Typed:
        code, count = self.number(4), self.number(8)
        name = _type_name(code)
        self._items += count
        if self._items > MAX_NODES and name != "uint8":
            raise LimitError(f"the metadata has more than {MAX_NODES:,} items")
        if name == "string":
            return "string[]", self._strings(count)
        if name != "array":
            return f"{name}[]", self._numbers_or_bools(name, count)
        if depth >= MAX_ARRAY_DEPTH:
            raise LimitError(f"arrays are nested more than {MAX_ARRAY_DEPTH} deep")
        self._check_fits(count, 12)
        items = [self._array(depth + 1) for _ in range(count)]
        types = {item_type for item_type, _ in items} or {"array"}
        if len(types) > 1:
            raise UnsupportedError("an array of arrays of different types is not supported", hint="write it again")
        return f"{types.pop()}[]", [value for _, value in items]

    def _check_fits(self, count: int, width: int) -> None:
        """Raise CorruptFileError unless `count` items of at least `width` bytes fit into the rest of the file."""
        if count * width > self._source.size - self.position:
            raise CorruptFileError("an array of the GGUF header is longer than the file")

    def _strings(self, count: int) -> list[str]:
        self._check_fits(count, 8)
        length_at, texts = self._structs[8].unpack_from, []
        for _ in range(count):
            if len(self._data) - self._at < 8:
                self._buffer(8)
            (length,) = length_at(self._data, self._at)
            start, stop = self._at + 8, self._at + 8 + length
            if stop > len(self._data):
                self._buffer(8 + length)
                start, stop = self._at + 8, self._at + 8 + length
            texts.append(self._data[start:stop].decode("utf-8", "surrogateescape"))
            self._at = stop
        return texts

    def _numbers_or_bools(self, name: str, count: int) -> Sequence[MetaNode]:
        """The next `count` values of a type of fixed width; of ``uint8`` as bytes."""
        self._check_fits(count, WIDTH[name])
        data = self.take(count * WIDTH[name])
        if name == "bool":
            if data.count(0) + data.count(1) != count:
                raise bad("a boolean is neither 0 nor 1")
            return [byte == 1 for byte in data]
        if name == "uint8":
            return data
        numbers = array(FORMAT[name], data)
        if (self._order == ">") != (sys.byteorder == "big"):
            numbers.byteswap()
        return numbers.tolist()


def _type_name(code: int) -> str:
    if code not in TYPES:
        raise bad(f"there is no metadata type {code}")
    return TYPES[code]
