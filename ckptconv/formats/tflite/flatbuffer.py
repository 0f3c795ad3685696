"""FlatBuffers, read in ranges and without a compiled schema.

    u32                 at 0: where the root table is
    4 bytes             at 4: the file's identifier
    table    i32        the table's place minus its vtable's; then its fields, at the offsets that the vtable has
    vtable   u16 u16    bytes of the vtable, bytes of the table; then a u16 for each field by the schema's order: its
                        offset in the table, 0 where it is left out and has the schema's default
    offset   u32        from its own place to what it points at, always forward: a table, a vector, a string
    vector   u32        number of elements, and these
    string              a vector of bytes, UTF-8, and a NUL that does not count
    union               a u8 that says which table, and an offset to it

All numbers are little-endian. Nothing keeps offsets from meeting: what is read of a file altogether is bounded by its
size, since no honest writer shares tables.

Refused: tables, vtables, vectors and strings that run past the end, fields past the end of their table, text that is no
UTF-8. Source: flatbuffers.dev/internals.
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
_PLACE = 4
_SLOTS = 64
"""Fields of a table that are looked at; TensorFlow Lite's tables have 14 at most."""

PAGE = 1024
"""Bytes that are read at a time: tables lie close together, and weights between them."""

PAGES = 1024


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the layout."""
    return CorruptFileError(f"the TensorFlow Lite model is invalid: {what}")


@dataclass(frozen=True, slots=True)
class Vector:
    """`count` elements of `width` bytes that start at `start` of the file, whose end they do not pass."""

    start: int
    count: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.count * self.width


class FlatBuffer:
    """Any range of the file, in pages of which the last ones are kept; counts what is asked for."""

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
        """One number."""
        return int(kind.unpack(self._take(at, kind.size))[0])

    def read(self, at: int, count: int) -> bytes:
        """So many bytes. Raises CorruptFileError past the end, LimitError where it comes to too many altogether."""
        self._spend(count)
        return self._take(at, count)

    def table(self, at: int) -> Table:
        """The table at this place."""
        size, fields = self._vtable(at - self.number(at, I32))
        self._spend(size + _PLACE)
        return Table(self, at, fields, self._take(at, size))

    def vector(self, at: int, width: int) -> Vector:
        """The vector at this place."""
        count = self.number(at, U32)
        if count * width > self.size - at - _PLACE:
            raise bad(f"a vector of {count:,} elements at byte {at:,} runs past the end of the file")
        return Vector(at + _PLACE, count, width)

    def _vtable(self, at: int) -> tuple[int, tuple[int, ...]]:
        """The size of a table, and the offsets of its fields."""
        known = self._vtables.get(at)
        if known is None:
            length, size = self.number(at, U16), self.number(at + U16.size, U16)
            if length < 4 or length % 2 or size < 4:
                raise bad(f"there is no vtable at byte {at:,}")
            self._spend(length)
            offsets = self._take(at + 4, min(length - 4, 2 * _SLOTS))
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
    """A table: `fields` are the offsets of its fields, `data` is its bytes. Fields go by their number in the schema."""

    buffer: FlatBuffer
    at: int
    fields: tuple[int, ...]
    data: bytes

    def number(self, field: int, kind: Struct, default: int = 0) -> int:
        """A number, or the default where it is left out."""
        offset = self.fields[field] if field < len(self.fields) else 0
        if not offset:
            return default
        try:
            return int(kind.unpack_from(self.data, offset)[0])
        except StructError:
            raise bad(f"a field of the table at byte {self.at:,} lies outside of it") from None

    def table(self, field: int) -> Table | None:
        """The table that a field points at."""
        place = self._target(field)
        return None if place is None else self.buffer.table(place)

    def vector(self, field: int, width: int) -> Vector | None:
        """The vector that a field points at, its elements unread."""
        place = self._target(field)
        return None if place is None else self.buffer.vector(place, width)

    def tables(self, field: int) -> Tables:
        """The tables of a vector of them; none where it is left out."""
        return Tables(self.buffer, self.vector(field, _PLACE) or Vector(0, 0, _PLACE))

    def ints(self, field: int) -> tuple[int, ...]:
        """A vector of i32; empty where it is left out."""
        found = self.vector(field, I32.size)
        data = self.buffer.read(found.start, found.nbytes) if found else b""
        return tuple(number for (number,) in I32.iter_unpack(data))

    def text(self, field: int) -> str:
        """A string; empty where it is left out. Raises CorruptFileError where it is not UTF-8, LimitError if long."""
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
    """Tables of a vector, opened one at a time."""

    def __init__(self, buffer: FlatBuffer, vector: Vector) -> None:
        self._buffer = buffer
        self._start = vector.start
        self._offsets = buffer.read(vector.start, vector.nbytes)

    def __len__(self) -> int:
        return len(self._offsets) // _PLACE

    def __getitem__(self, index: int) -> Table:
        at = index * _PLACE
        (offset,) = U32.unpack_from(self._offsets, at)
        return self._buffer.table(self._start + at + offset)

    def __iter__(self) -> Iterator[Table]:
        return (self[index] for index in range(len(self)))
