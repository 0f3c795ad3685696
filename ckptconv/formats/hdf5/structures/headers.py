"""Object headers: the messages that describe a group, a dataset or a named datatype.

    version 1: version, 0, number of messages u16, links to it u32, size u32, 4 bytes; then messages:
               type u16, size u16, flags u8, 3 bytes, data (a multiple of 8 bytes)
    version 2: "OHDR", 2, flags, [times, 4 × u32], [attribute limits, 2 × u16], size (1, 2, 4 or 8 bytes), messages:
               type u8, size u16, flags u8, [creation order u16], data; then a checksum

A continuation message points to another block of messages ("OCHK" … checksum in version 2). A message may be shared:
its data is then the address of the header that has it. Named datatypes are used like this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING

from ckptconv.errors import UnsupportedError
from ckptconv.formats.hdf5.structures.checksum import lookup3_of_each
from ckptconv.formats.hdf5.structures.cursor import Cursor, damaged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.formats.hdf5.structures.superblock import Hdf5File

DATASPACE, LINK_INFO, DATATYPE, OLD_FILL, FILL, LINK, EXTERNAL, LAYOUT = 1, 2, 3, 4, 5, 6, 7, 8
GROUP_INFO, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = 10, 11, 12, 16, 17
DRIVER_INFO, ATTRIBUTE_INFO, LINK_COUNT, CACHE_IMAGE = 20, 21, 22, 24
_WIDE, _NARROW = Struct("<HHB").unpack_from, Struct("<BHB").unpack_from
"""Unpack the type, size and flags of a message, in headers of version 1 and 2."""

_KNOWN = range(25)
"""Types of messages that are understood, or can be ignored (times, comments, bookkeeping)."""

_SHARED, _NEVER_SHARED, _MUST_BE_KNOWN = 1 << 1, 1 << 2, 1 << 7
_MAX_PREFIX = 34
"""The most bytes that a header of version 2 has before its messages."""

_READ_AHEAD = 512
"""Bytes that are read at once; most headers are shorter."""


@dataclass(slots=True)
class Message:
    """A message of an object header."""

    kind: int
    flags: int
    data: bytes


@dataclass(slots=True)
class Header:
    """The messages of an object, by type."""

    file: Hdf5File
    messages: dict[int, list[Message]] = field(default_factory=dict)

    def has(self, *kinds: int) -> bool:
        """Whether there is a message of one of these types."""
        return any(kind in self.messages for kind in kinds)

    def cursors(self, kind: int, what: str) -> list[Cursor]:
        """The data of all messages of a type; shared messages are resolved."""
        return [self._message_cursor(message, what) for message in self.messages.get(kind, ())]

    def cursor(self, kind: int, what: str) -> Cursor | None:
        """The data of the only message of a type; None if there is none. Raises CorruptFileError for several."""
        cursors = self.cursors(kind, what)
        if len(cursors) > 1:
            raise damaged(f"an object has {len(cursors)} messages that are {what}")
        return cursors[0] if cursors else None

    def _message_cursor(self, message: Message, what: str) -> Cursor:
        cursor = Cursor(message.data, what, self.file.offsets, self.file.lengths)
        return resolve_shared(self.file, message.kind, cursor) if message.flags & _SHARED else cursor


def resolve_shared(file: Hdf5File, kind: int, cursor: Cursor) -> Cursor:
    """The data of the message that a shared message points to."""
    version = cursor.expect(b"", 1, 2, 3)
    place = cursor.uint(1)
    if version == 3 and place == 1:
        raise UnsupportedError(
            "it keeps header messages in a heap of their own, which is not supported",
            hint="h5repack it: a plain copy has none",
        )
    if version == 1:
        cursor.skip(6)
    address = cursor.address()
    if address is None:
        raise damaged(f"{cursor.what} is shared, and has no address")
    for message in read_header(file, address).messages.get(kind, ()):
        if not message.flags & _SHARED:
            return Cursor(message.data, cursor.what, file.offsets, file.lengths)
    raise damaged(f"{cursor.what} is shared, and not where it should be")


def read_header(file: Hdf5File, address: int) -> Header:
    """The object header at an address. Raises CorruptFileError, UnsupportedError."""
    return _HeaderReader(file).read(address, _read_ahead(file, address))


def read_headers(file: Hdf5File, addresses: Sequence[int]) -> dict[int, Header]:
    """The object headers at these addresses. Computes the checksums of small ones together, which is much faster.

    Raises what `read_header` raises.
    """
    starts = {address: _read_ahead(file, address) for address in addresses}
    complete = {address: header for address, start in starts.items() if (header := _first_block(start))}
    checksums = lookup3_of_each([header[:-4] for header in complete.values()])
    verified = {
        address
        for (address, header), checksum in zip(complete.items(), checksums, strict=True)
        if checksum == int.from_bytes(header[-4:], "little")
    }
    return {
        address: _HeaderReader(file, verified=address in verified).read(address, complete.get(address, start))
        for address, start in starts.items()
    }


def _read_ahead(file: Hdf5File, address: int) -> bytes:
    return file.read(address, min(_READ_AHEAD, max(0, file.size - address)))


def _first_block(start: bytes) -> bytes:
    """The first block of a version 2 header, with its checksum; b"" for version 1, and if `start` ends before it."""
    if start[:5] != b"OHDR\2" or len(start) < _MAX_PREFIX:
        return b""
    first, size = _messages_place(start[5], start)
    return start[: first + size + 4] if first + size + 4 <= len(start) else b""


def _messages_place(flags: int, start: bytes) -> tuple[int, int]:
    """The offset and the size of the messages in the first block of a header of version 2."""
    at, width = 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1), 1 << (flags & 3)
    return at + width, int.from_bytes(start[at : at + width], "little")


class _HeaderReader:
    """Reads an object header block by block.

    verified: the first block will be given as a whole, and its checksum is right.
    """

    def __init__(self, file: Hdf5File, *, verified: bool = False) -> None:
        self._verified = verified
        self._header = Header(file)
        self._file = file
        self._waiting: list[tuple[int, int]] = []
        self._seen: set[int] = set()
        self._count = 0

    def read(self, address: int, start: bytes) -> Header:
        if start[:4] == b"OHDR":
            self._read_version_2(address, start)
        else:
            self._read_version_1(address, start)
        return self._header

    def _read_version_1(self, address: int, start: bytes) -> None:
        cursor = Cursor(start, "an object header")
        cursor.expect(b"", 1)
        cursor.skip(1)
        count = cursor.uint(2)
        cursor.skip(4)
        size = cursor.uint(4)
        data = start[16 : 16 + size] if 16 + size <= len(start) else self._file.read(address + 16, size)
        self._parse_messages(data, wide=True, ordered=False)
        while (block := self._next_block()) is not None:
            self._parse_messages(self._file.read(*block), wide=True, ordered=False)
        if self._count != count:
            raise damaged(f"an object header says that it has {count} messages, and has {self._count}")

    def _read_version_2(self, address: int, start: bytes) -> None:
        cursor = Cursor(start, "an object header")
        cursor.expect(b"OHDR", 2)
        flags = cursor.uint(1)
        cursor.skip(16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1))
        size = cursor.uint(1 << (flags & 3))
        first, ordered = cursor.at, bool(flags >> 2 & 1)
        if self._verified:
            data = start[first : first + size]
        else:
            whole = self._file.checked_cursor(address, first + size + 4, "an object header")
            whole.skip(first)
            data = whole.take(size)
        self._parse_messages(data, wide=False, ordered=ordered)
        while (block := self._next_block()) is not None:
            more = self._file.checked_cursor(*block, "an object header's continuation")
            if more.take(4) != b"OCHK":
                raise damaged("an object header is continued where there is none")
            self._parse_messages(more.take(more.left), wide=False, ordered=ordered)

    def _next_block(self) -> tuple[int, int] | None:
        """The address and size of a continuation that was not read yet."""
        return self._waiting.pop(0) if self._waiting else None

    def _parse_messages(self, data: bytes, *, wide: bool, ordered: bool) -> None:
        """Add the messages of a block. `wide`: as in version 1. `ordered`: with a creation order."""
        prefix, head = (8, _WIDE) if wide else (4 + 2 * ordered, _NARROW)
        at, end = 0, len(data)
        while end - at >= prefix:
            kind, size, flags = head(data, at)
            at += prefix + size
            if at > end:
                raise damaged("an object header's messages is cut short")
            message = Message(kind, flags, data[at - size : at])
            self._count += 1
            if (wide and size % 8) or (flags & _SHARED and flags & _NEVER_SHARED):
                raise damaged("a message of an object header is not as messages are")
            if kind == CONTINUATION:
                self._note_continuation(message)
            elif kind not in _KNOWN and flags & _MUST_BE_KNOWN:
                raise UnsupportedError(
                    f"it holds a header message of type {kind}, which is not known", hint="h5repack it with HDF5 1.14"
                )
            else:
                self._header.messages.setdefault(kind, []).append(message)
        if wide and at < end:
            raise damaged("an object header has a gap between its messages")

    def _note_continuation(self, message: Message) -> None:
        cursor = Cursor(message.data, "a continuation", self._file.offsets, self._file.lengths)
        address, size = cursor.address(), cursor.length()
        if address is None or address in self._seen:
            raise damaged("an object header is continued in itself")
        self._seen.add(address)
        self._waiting.append((address, size))
