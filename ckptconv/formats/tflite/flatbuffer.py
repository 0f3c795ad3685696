"""FlatBuffers, read in ranges and without a compiled schema.

    u32                 at 0: where the root table is
    4 bytes             at 4: the file's identifier
    table    i32        the table's position minus that of its vtable; then its fields, at the offsets in the vtable
    vtable   u16 u16    bytes of the vtable, bytes of the table; then a u16 for each field in the schema's order: its
                        offset in the table; 0 if it is left out and has the schema's default
    offset   u32        from its own position to what it refers to, always forward: a table, a vector, a string
    vector   u32        number of elements, then the elements
    string              a vector of bytes, UTF-8, then a NUL that is not counted
    union               a u8 that says which table, and an offset to it

All numbers are little-endian. Several offsets can refer to the same bytes, so the total that is read is limited by the
file's size: no honest writer shares tables.

Refused: tables, vtables, vectors and strings that run past the end of the file, fields past the end of their table, and
text that is not UTF-8. Source: flatbuffers.dev/internals.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import TYPE_CHECKING

from ckptconv.errors import CUT_SHORT, CorruptFileError, LimitError
from ckptconv.io.limits import FREE_FLATBUFFER_BYTES, MAX_FLATBUFFER_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.io.source import Source

U8, I8, U16, I32, U32, U64 = (Struct("<" + code) for code in "BbHiIQ")
_OFFSET_BYTES = 4
_MAX_FIELDS = 64
"""Further fields of a table are ignored; TensorFlow Lite's tables have at most 14."""

PAGE = 1024
"""Bytes that are read at a time: tables are close together, with weights between them."""

PAGES = 1024
"""How many pages are kept."""


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the layout."""
    return CorruptFileError(f"the TensorFlow Lite model is invalid: {what}")


@dataclass(frozen=True, slots=True)
class Vector:
    """`count` elements of `width` bytes that start at `start` in the file and do not run past its end."""

    start: int
    count: int
    width: int

    @property
    def nbytes(self) -> int:
        """The size of all elements."""
        return self.count * self.width


class FlatBuffer:
    """Reads the file in pages, of which the last ones are kept, and limits how much is read in total."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.size = source.size
        self._left = 2 * source.size + FREE_FLATBUFFER_BYTES
        self._pages: dict[int, bytes] = {}
        self._vtables: dict[int, tuple[int, tuple[int, ...]]] = {}

    def root(self) -> Table:
        """The root table."""
        return self.table(self.number(0, U32))

    def number(self, at: int, kind: Struct) -> int:
        """Read one number."""
        return int(kind.unpack(self._take(at, kind.size))[0])

    def read(self, at: int, count: int) -> bytes:
        """Read `count` bytes. Raises CorruptFileError past the end, LimitError if it is too much in total."""
        self._spend(count)
        return self._take(at, count)

    def table(self, at: int) -> Table:
        """The table at this position."""
        size, fields = self._vtable(at - self.number(at, I32))
        self._spend(size + _OFFSET_BYTES)
        return Table(self, at, fields, self._take(at, size))

    def vector(self, at: int, width: int) -> Vector:
        """The vector at this position."""
        count = self.number(at, U32)
        if count * width > self.size - at - _OFFSET_BYTES:
            raise bad(f"a vector of {count:,} elements at byte {at:,} runs past the end of the file")
        return Vector(at + _OFFSET_BYTES, count, width)

    def _vtable(self, at: int) -> tuple[int, tuple[int, ...]]:
        """The size of a table, and the offsets of its fields."""
        known = self._vtables.get(at)
        if known is None:
            length, size = self.number(at, U16), self.number(at + U16.size, U16)
            if length < 4 or length % 2 or size < 4:
                raise bad(f"there is no vtable at byte {at:,}")
            self._spend(length)
            offsets = self._take(at + 4, min(length - 4, 2 * _MAX_FIELDS))
            known = self._vtables[at] = size, tuple(number for (number,) in U16.iter_unpack(offsets))
        return known

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise LimitError("its tables point at the same bytes again and again, more than any writer would")

    def _take(self, at: int, count: int) -> bytes:
        if not 0 <= at <= self.size - count:
            raise CorruptFileError(
                f"the TensorFlow Lite model is invalid: it ends at byte {self.size:,}, and bytes {at:,} to "
                f"{at + count:,} are asked for",
                hint=CUT_SHORT,
            )
        number, start = divmod(at, PAGE)
        page = self._pages.get(number) or self._load(number)
        if start + count <= len(page):
            return page[start : start + count]
        return bytes(self.source.read_at(at, count))

    def _load(self, number: int) -> bytes:
        if len(self._pages) >= PAGES:
            del self._pages[next(iter(self._pages))]
        begin = number * PAGE
        page = self._pages[number] = bytes(self.source.read_at(begin, min(PAGE, self.size - begin)))
        return page


@dataclass(slots=True)
class Table:
    """A table. Fields are given by their number in the schema.

    at:     its position.
    fields: the offsets of its fields.
    data:   its bytes.
    """

    buffer: FlatBuffer
    at: int
    fields: tuple[int, ...]
    data: bytes

    def number(self, field: int, kind: Struct, default: int = 0) -> int:
        """A number, or the default if it is left out."""
        offset = self.fields[field] if field < len(self.fields) else 0
        if not offset:
            return default
        try:
            return int(kind.unpack_from(self.data, offset)[0])
        except StructError:
            raise bad(f"a field of the table at byte {self.at:,} lies outside of it") from None

    def table(self, field: int) -> Table | None:
        """The table that a field refers to; None if it is left out."""
        position = self._target(field)
        return None if position is None else self.buffer.table(position)

    def vector(self, field: int, width: int) -> Vector | None:
        """The vector that a field refers to, its elements unread; None if it is left out."""
        position = self._target(field)
        return None if position is None else self.buffer.vector(position, width)

    def tables(self, field: int) -> Tables:
        """The tables in a vector; none if it is left out."""
        return Tables(self.buffer, self.vector(field, _OFFSET_BYTES) or Vector(0, 0, _OFFSET_BYTES))

    def ints(self, field: int) -> tuple[int, ...]:
        """A vector of i32; empty if it is left out."""
        found = self.vector(field, I32.size)
        data = self.buffer.read(found.start, found.nbytes) if found else b""
        return tuple(number for (number,) in I32.iter_unpack(data))

    def text(self, field: int) -> str:
        """A string; "" if it is left out. Raises CorruptFileError if it is not UTF-8, LimitError if it is too long."""
        found = self.vector(field, 1)
        if found is None:
            return ""
        if found.count > MAX_FLATBUFFER_TEXT:
            raise LimitError(f"it has a name of {found.count:,} bytes")
        try:
            return self.buffer.read(found.start, found.count).decode("utf-8")
        except UnicodeDecodeError:
            raise bad(f"the text at byte {found.start:,} is not UTF-8") from None

    def _target(self, field: int) -> int | None:
        offset = self.number(field, U32)
        return self.at + self.fields[field] + offset if offset else None


class Tables:
    """The tables in a vector, each read when it is asked for."""

    def __init__(self, buffer: FlatBuffer, vector: Vector) -> None:
        self._buffer = buffer
        self._start = vector.start
        self._offsets = buffer.read(vector.start, vector.nbytes)

    def __len__(self) -> int:
        return len(self._offsets) // _OFFSET_BYTES

    def __getitem__(self, index: int) -> Table:
        at = index * _OFFSET_BYTES
        (offset,) = U32.unpack_from(self._offsets, at)
        return self._buffer.table(self._start + at + offset)

    def __iter__(self) -> Iterator[Table]:
        return (self[index] for index in range(len(self)))
