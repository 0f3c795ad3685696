"""Object headers: what a group, a dataset or a named type says of itself, in messages.

    version 1: version, 0, number of messages u16, links to it u32, size u32, 4 bytes; then messages:
               type u16, size u16, flags u8, 3 bytes, data (a multiple of 8 bytes)
    version 2: "OHDR", 2, flags, [times, 4 × u32], [attribute limits, 2 × u16], size (1, 2, 4 or 8 bytes), messages:
               type u8, size u16, flags u8, [creation order u16], data; then a checksum

A continuation message points at another block of messages ("OCHK" … checksum in version 2). A message may be shared:
its data is then the address of the header that has it, which is how named datatypes are used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING

from ckptconv.errors import UnsupportedError
from ckptconv.formats.hdf5.checksum import lookup3_of_each
from ckptconv.formats.hdf5.cursor import Cursor, damaged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.formats.hdf5.superblock import Hdf5File

DATASPACE, LINK_INFO, DATATYPE, OLD_FILL, FILL, LINK, EXTERNAL, LAYOUT = 1, 2, 3, 4, 5, 6, 7, 8
GROUP_INFO, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = 10, 11, 12, 16, 17
DRIVER_INFO, ATTRIBUTE_INFO, LINK_COUNT, CACHE_IMAGE = 20, 21, 22, 24
_WIDE, _NARROW = Struct("<HHB").unpack_from, Struct("<BHB").unpack_from
"""Type, size and flags of a message in version 1, and in version 2."""

_KNOWN = range(25)
"""Types of messages that are understood, or are no matter here (times, comments, bookkeeping)."""

_SHARED, _NEVER_SHARED, _MUST_BE_KNOWN = 1 << 1, 1 << 2, 1 << 7
_LONGEST_PREFIX = 34
"""Bytes of a header of version 2 before its messages, at most."""

_AHEAD = 512
"""Bytes that are read at once: most headers end there."""


@dataclass(slots=True)
class Message:
    """A message's type, flags and data."""

    kind: int
    flags: int
    data: bytes


@dataclass(slots=True)
class Header:
    """An object's messages, by their type."""

    file: Hdf5File
    messages: dict[int, list[Message]] = field(default_factory=dict)

    def has(self, *kinds: int) -> bool:
        """Whether there is a message of one of these types."""
        return any(kind in self.messages for kind in kinds)

    def all(self, kind: int, what: str) -> list[Cursor]:
        """The data of every message of that type, shared ones' from where it lies."""
        return [self._cursor(message, what) for message in self.messages.get(kind, ())]

    def one(self, kind: int, what: str) -> Cursor | None:
        """Likewise of one that comes once; None where it is missing. Raises CorruptFileError where it comes twice."""
        found = self.all(kind, what)
        if len(found) > 1:
            raise damaged(f"an object has {len(found)} messages that are {what}")
        return found[0] if found else None

    def _cursor(self, message: Message, what: str) -> Cursor:
        cursor = Cursor(message.data, what, self.file.offsets, self.file.lengths)
        return shared(self.file, message.kind, cursor) if message.flags & _SHARED else cursor


def shared(file: Hdf5File, kind: int, cursor: Cursor) -> Cursor:
    """The data of a shared message, whose own is where it lies."""
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
    return _Blocks(file).read(address, _start(file, address))


def read_headers(file: Hdf5File, addresses: Sequence[int]) -> dict[int, Header]:
    """Those of several objects, with the checksums of small ones computed together. Raises as `read_header`."""
    starts = {address: _start(file, address) for address in addresses}
    wholes = {address: whole for address, start in starts.items() if (whole := _whole(start))}
    sums = lookup3_of_each([whole[:-4] for whole in wholes.values()])
    sound = {
        address
        for (address, whole), one in zip(wholes.items(), sums, strict=True)
        if one == int.from_bytes(whole[-4:], "little")
    }
    return {
        address: _Blocks(file, sound=address in sound).read(address, wholes.get(address, start))
        for address, start in starts.items()
    }


def _start(file: Hdf5File, address: int) -> bytes:
    return file.read(address, min(_AHEAD, max(0, file.size - address)))


def _whole(start: bytes) -> bytes:
    """A header of version 2 with its checksum, which begins these bytes; b"" where it is another, or goes on."""
    if start[:5] != b"OHDR\2" or len(start) < _LONGEST_PREFIX:
        return b""
    first, size = _sized(start[5], start)
    return start[: first + size + 4] if first + size + 4 <= len(start) else b""


def _sized(flags: int, start: bytes) -> tuple[int, int]:
    """Where the messages of a header of version 2 begin, and how many bytes they are."""
    at, width = 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1), 1 << (flags & 3)
    return at + width, int.from_bytes(start[at : at + width], "little")


class _Blocks:
    """Follows an object header from block to block. `sound`: what it begins with is all of it up to its continuations,
    and has the checksum that it says.
    """

    def __init__(self, file: Hdf5File, *, sound: bool = False) -> None:
        self._sound = sound
        self._header = Header(file)
        self._file = file
        self._waiting: list[tuple[int, int]] = []
        self._seen: set[int] = set()
        self._count = 0

    def read(self, address: int, start: bytes) -> Header:
        if start[:4] == b"OHDR":
            self._second(address, start)
        else:
            self._first(address, start)
        return self._header

    def _first(self, address: int, start: bytes) -> None:
        cursor = Cursor(start, "an object header")
        cursor.expect(b"", 1)
        cursor.skip(1)
        count = cursor.uint(2)
        cursor.skip(4)
        size = cursor.uint(4)
        data = start[16 : 16 + size] if 16 + size <= len(start) else self._file.read(address + 16, size)
        self._messages(data, wide=True, ordered=False)
        while (block := self._next()) is not None:
            self._messages(self._file.read(*block), wide=True, ordered=False)
        if self._count != count:
            raise damaged(f"an object header says that it has {count} messages, and has {self._count}")

    def _second(self, address: int, start: bytes) -> None:
        cursor = Cursor(start, "an object header")
        cursor.expect(b"OHDR", 2)
        flags = cursor.uint(1)
        cursor.skip(16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1))
        size = cursor.uint(1 << (flags & 3))
        first, ordered = cursor.at, bool(flags >> 2 & 1)
        if self._sound:
            data = start[first : first + size]
        else:
            whole = self._file.checked(address, first + size + 4, "an object header")
            whole.skip(first)
            data = whole.take(size)
        self._messages(data, wide=False, ordered=ordered)
        while (block := self._next()) is not None:
            more = self._file.checked(*block, "an object header's continuation")
            if more.take(4) != b"OCHK":
                raise damaged("an object header is continued where there is none")
            self._messages(more.take(more.left), wide=False, ordered=ordered)

    def _next(self) -> tuple[int, int] | None:
        return self._waiting.pop(0) if self._waiting else None

    def _messages(self, data: bytes, *, wide: bool, ordered: bool) -> None:
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
                self._continue(message)
            elif kind not in _KNOWN and flags & _MUST_BE_KNOWN:
                raise UnsupportedError(
                    f"it holds a header message of type {kind}, which is not known", hint="h5repack it with HDF5 1.14"
                )
            else:
                self._header.messages.setdefault(kind, []).append(message)
        if wide and at < end:
            raise damaged("an object header has a gap between its messages")

    def _continue(self, message: Message) -> None:
        cursor = Cursor(message.data, "a continuation", self._file.offsets, self._file.lengths)
        address, size = cursor.address(), cursor.length()
        if address is None or address in self._seen:
            raise damaged("an object header is continued in itself")
        self._seen.add(address)
        self._waiting.append((address, size))
