"""Protobuf's wire format, read in ranges: payloads are skipped, and memory stays bounded whatever their size.

    message    fields, one after the other, in any order, to the end of its range
    field      tag: a varint, number × 8 + wire type; then by wire type
                   0  a varint             1  8 bytes              5  4 bytes
                   2  a varint, the length, and that many bytes: text, a message, or packed numbers
    varint     7 bits a byte, the lowest first, the top bit set on all but the last; at most 10 bytes;
               negative numbers as their 64-bit two's complement

Refused: groups (wire types 3 and 4), overlong tags, varints of more than 64 bits, ranges past their message's end.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.errors import CUT_SHORT, LimitError
from ckptconv.io.varint import varint as plain_varint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptconv.errors import CorruptFileError
    from ckptconv.io.source import Source

VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5
WIDTH = {FIXED64: 8, FIXED32: 4}

Field = tuple[int, int, int, int]
"""Number, wire type, and the payload's range; for a varint its value instead, and where the field ends."""

MAX_FIELDS = 8_000_000
"""A graph of 100,000 nodes and 30,000 tensors has some 4,000,000."""

MAX_TEXT = 1 << 16
"""Bytes of a name."""

HEAD = 24
"""Bytes that a tag and a length, or a tag and a number, can take together, rounded up."""

FIRST_BLOCK, MAX_BLOCK = 4 << 10, 256 << 10
"""After a jump a small block is read, since another jump may follow. Blocks that are read in a row double in size."""


PAST = "a field reaches past the end of its message, or is malformed"
LONG = "a number has more than 64 bits"


def signed(value: int) -> int:
    """A varint's value as the int64 that it stands for."""
    return value - (1 << 64) if value >> 63 else value


def fields_in(
    data: bytes | memoryview, start: int, stop: int, bad: Callable[[str], CorruptFileError]
) -> Iterator[Field]:
    """The fields of a message in memory, in ``data[start:stop]``; `bad` makes the error for a malformed field."""
    at = start
    while at < stop:
        try:
            tag, begin = plain_varint(data, at)
            wire = tag & 7
            if wire == VARINT:
                begin, at = plain_varint(data, begin)
            elif wire == LEN:
                length, begin = plain_varint(data, begin)
                at = begin + length
            elif wire in WIDTH:
                at = begin + WIDTH[wire]
            else:
                raise bad(f"wire type {wire} at byte {at:,}")
        except IndexError:
            raise bad(PAST) from None
        except OverflowError:
            raise bad(LONG) from None
        if at > stop or tag < 8:
            raise bad(PAST)
        yield tag >> 3, wire, begin, at


class Wire:
    """A view of a file that moves forward in blocks; memory and reads stay bounded whatever the payloads' size."""

    def __init__(self, source: Source, bad: Callable[[str], CorruptFileError]) -> None:
        """`bad` makes the error for what contradicts the format."""
        self.source = source
        self.bad = bad
        self._base = 0
        self._data = b""
        self._block = FIRST_BLOCK
        self._left = MAX_FIELDS

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """The fields of the message in ``[start, stop)``. Other ranges may be walked in between."""
        position = start
        while position < stop:
            at = position - self._base
            if at < 0 or at + HEAD > len(self._data):
                self._load(position)
                at = 0
            data, base = self._data, self._base
            try:
                tag = data[at]
                at += 1
                if tag >= 0x80:
                    tag, at = self._long_tag(data, at - 1)
                wire = tag & 7
                if wire == LEN:
                    begin = data[at]
                    at += 1
                    if begin >= 0x80:
                        begin, at = self.varint(data, at - 1)
                    position = base + at + begin
                    begin = base + at
                elif wire == VARINT:
                    begin, at = self.varint(data, at)
                    position = base + at
                elif wire in WIDTH:
                    begin = base + at
                    position = begin + WIDTH[wire]
                else:
                    raise self.bad(f"wire type {wire} at byte {base + at - 1:,}")
            except IndexError:
                raise self._past(stop) from None
            if position > stop or tag < 8:
                raise self._past(stop) if position > stop else self.bad("a field has the number 0")
            self._left -= 1
            if self._left < 0:
                raise LimitError(f"more than {MAX_FIELDS:,} fields", hint="no honest model has so many")
            yield tag >> 3, wire, begin, position

    def known(self, start: int, stop: int, wires: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
        """Number and payload of the fields whose numbers are in `wires`; others are skipped.

        Raises CorruptFileError where a field has another wire type than `wires` gives it.
        """
        for number, wire, begin, end in self.fields(start, stop):
            if number in wires:
                self.expect(number, wire, wires[number])
                yield number, begin, end

    def matching(self, start: int, stop: int, wires: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
        """As `known`, but fields with another wire type are skipped too, as protobuf's own readers do."""
        for number, wire, begin, end in self.fields(start, stop):
            if wires.get(number) == wire:
                yield number, begin, end

    def check(self, start: int, stop: int) -> None:
        """Raise CorruptFileError unless the range consists of fields, which are skipped."""
        for _ in self.fields(start, stop):
            pass

    def _past(self, stop: int) -> CorruptFileError:
        if stop < self.source.size:
            return self.bad(f"a field reaches past its message's end at byte {stop:,}")
        error = self.bad(f"it ends at byte {self.source.size:,}, within a field")
        error.hint = CUT_SHORT
        return error

    def varint(self, data: bytes | memoryview, at: int) -> tuple[int, int]:
        """The varint at `at`, and where it ends. Raises IndexError past the end, CorruptFileError over 64 bits."""
        try:
            return plain_varint(data, at)
        except OverflowError:
            raise self.bad(LONG) from None

    def expect(self, number: int, wire: int, wanted: int) -> None:
        """Raise CorruptFileError unless a known field has its wire type."""
        if wire != wanted:
            raise self.bad(f"field {number} has the wire type {wire}, not {wanted}")

    def _long_tag(self, data: bytes, at: int) -> tuple[int, int]:
        tag, end = self.varint(data, at)
        if data[end - 1] == 0 or tag >> 32:
            raise self.bad("a field's tag is overlong")
        return tag, end

    def _load(self, position: int) -> None:
        in_a_row = self._base <= position <= self._base + len(self._data) + HEAD
        self._block = min(self._block * 2, MAX_BLOCK) if in_a_row else FIRST_BLOCK
        length = min(self._block, self.source.size - position)
        self._base, self._data = position, bytes(self.source.read_at(position, length))

    def read(self, start: int, stop: int, most: int = MAX_TEXT) -> bytes:
        """The bytes of a range. Raises LimitError over `most` of them."""
        if stop - start > most:
            raise LimitError(f"a text of {stop - start:,} bytes; the limit is {most:,}")
        at = start - self._base
        if at < 0 or at + stop - start > len(self._data):
            if stop - start > MAX_BLOCK:
                return bytes(self.source.read_at(start, stop - start))
            self._load(start)
            if stop - start > len(self._data):
                return bytes(self.source.read_at(start, stop - start))
            at = 0
        return self._data[at : at + stop - start]

    def text(self, start: int, stop: int, most: int = MAX_TEXT) -> str:
        """The text in a range. Raises CorruptFileError where it is not UTF-8."""
        try:
            return self.read(start, stop, most).decode("utf-8")
        except UnicodeDecodeError:
            raise self.bad(f"the text at byte {start:,} is not UTF-8") from None

    def packed(self, start: int, stop: int, most: int) -> list[int]:
        """The signed varints in a range, at most `most` of them. Raises CorruptFileError, LimitError."""
        data, numbers, at = self.read(start, stop, 10 * most), list[int](), 0
        while at < len(data):
            try:
                number, at = self.varint(data, at)
            except IndexError:
                raise self.bad("packed numbers are cut short") from None
            numbers.append(signed(number))
        return numbers

    def run(self, start: int, stop: int, number: int, wire: int) -> int:
        """Where the run of fields with one one-byte tag ends that starts at `start`, found by a regular expression."""
        tag = bytes([number << 3 | wire])
        if wire in WIDTH:
            width = 1 + WIDTH[wire]
            pattern = re.compile(b"(?s:%s.{%d})++" % (re.escape(tag), width - 1))
        else:
            pattern = re.compile(b"(?:%s[\x80-\xff]{0,9}[\x00-\x7f])++" % re.escape(tag))
        position = start
        while position < stop:
            chunk = self.source.read_at(position, min(MAX_BLOCK, stop - position))
            found = pattern.match(chunk)
            if found is None:
                break
            position += found.end()
        return position
