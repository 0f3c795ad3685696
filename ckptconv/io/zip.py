r"""Zip archives, torch.save's and numpy.savez's among them, read once and strictly.

    local entry    "PK\\3\\4" … name, extra field (padding up to the storage's alignment), data
    …
    central        "PK\\1\\2" one header for each entry: name, method, sizes, CRC-32, offset of the local entry
    [zip64 end     "PK\\6\\6" and its locator "PK\\6\\7", where a count, size or offset does not fit]
    end            "PK\\5\\6" counts, the central directory's size and offset, a comment

All numbers are little-endian. Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3.

Readers disagree on files in which the two headers of an entry differ, entries overlap or share a name; torch and numpy
read them in silence. Here they are refused: local and central name, method and sizes must agree, no name may come
twice, entries may not overlap; symbolic links, encryption and methods other than stored (0) and deflated (8) are
refused by name.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.io.checksum import crc32
from ckptconv.io.limits import (
    FREE_PARSED_BYTES,
    MAX_INFLATED_RATIO,
    MAX_INFLATED_RECORD,
    MAX_PARSED_RATIO,
    MAX_ZIP_ENTRIES,
)
from ckptconv.io.spool import Spool
from ckptconv.io.zip_entries import Entry, Inflated, bad, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.io.source import Source
    from ckptconv.io.window import Window

LOCAL = Struct("<4s5H3I2H")
CENTRAL = Struct("<4s6H3I5H2I")
END = Struct("<4s4H2IH")
END64 = Struct("<4sQ2H2I4Q")
LOCATOR64 = Struct("<4sIQI")

LOCAL_MAGIC, CENTRAL_MAGIC, END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END64_MAGIC, LOCATOR64_MAGIC = b"PK\x06\x06", b"PK\x06\x07"

STAMPED_MAGICS = tuple(b"%02d" % number + LOCAL_MAGIC[2:] for number in range(10))
"""How an archive begins that has two digits in place of its first "PK", as voice models of GPT-SoVITS do."""

FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
"""In a 16- or 32-bit field: the value stands in a zip64 record."""

ENCRYPTED, SIZES_FOLLOW = 1 << 0 | 1 << 6 | 1 << 13, 1 << 3
PATCHED = 1 << 5
IN_UTF8 = 1 << 11
STORED, DEFLATED = 0, 8
ZIP64_EXTRA = 1
NEWEST = 63
"""Version 6.3 of the zip format, times ten: none asks for more (APPNOTE, 4.4.3)."""

AHEAD = 32 << 10
"""How many bytes are read at once where local headers lie close together."""

FOLDER = 0x10  # MS-DOS's attribute
UNIX, SYMLINK = 3, 0xA  # who made the entry, and the file type in the upper half of its attributes


class ZipArchive:
    """The entries of a zip file, by name. Opening reads the central directory, and how the file begins.

    stamp: the two digits in place of its first "PK"; "" in others.
    """

    def __init__(self, source: Source | Window) -> None:
        """Read the directory. Raises CorruptFileError, UnsupportedError, LimitError."""
        self._source = source
        self._spool = Spool()
        self._ahead = (0, b"")
        self._inflated: dict[int, Inflated] = {}
        start = bytes(source.read_at(0, min(len(LOCAL_MAGIC), source.size)))
        self.stamp = start[:2].decode("ascii") if start in STAMPED_MAGICS else ""
        offset, size, count = self._find_directory()
        self._directory = offset
        if count > MAX_ZIP_ENTRIES or size < count * CENTRAL.size:
            raise LimitError(f"the zip archive claims {count:,} entries in {size:,} bytes")
        self.entries: dict[str, Entry] = {}
        for entry in self._read_directory(source.read_at(offset, size), count):
            name = _name(entry)
            if name in self.entries:
                raise bad(f"it has two entries {name!r}")
            self.entries[name] = entry
        self._check_overlap()

    @classmethod
    def of(cls, source: Source) -> ZipArchive:
        """The archive of a source; it is parsed once, for the detection of the format and for its reader alike."""
        return source.once(cls, lambda: cls(source))

    def limit_inflated(self, most: int) -> None:
        """Refuse to inflate more than `most` bytes of it in all."""
        self._spool.most = most

    def _find_directory(self) -> tuple[int, int, int]:
        """Offset and size of the central directory, and its number of entries."""
        source = self._source
        for tail_size in (END.size, END.size + FULL16):  # nearly always there is no comment after it
            tail_size = min(source.size, tail_size)
            tail = bytes(source.read_at(source.size - tail_size, tail_size))
            at = tail.rfind(END_MAGIC)
            if at == 0 and tail[-2:] == b"\0\0":
                break
        at = tail.rfind(END_MAGIC, 0, max(0, len(tail) - END.size + len(END_MAGIC)))  # whole ones alone
        if at < 0:
            raise bad("its end record is missing")
        if at + END.size + END.unpack_from(tail, at)[7] != len(tail):  # torch and Python's zipfile take it as it is
            raise bad("bytes follow its last end record that its comment does not count")
        _, disk, first_disk, here, count, size, offset, _ = END.unpack_from(tail, at)
        end = source.size - tail_size + at
        wide = self._find_directory64(end)  # torch writes one always, needed or not
        if wide is not None:
            narrow = (disk, first_disk, here, count, size, offset)
            disk, first_disk, here, count, size, offset, end = wide
            if any(n not in (w, FULL16, FULL32) for n, w in zip(narrow, wide, strict=False)):
                raise bad("its two end records differ")
        if disk or first_disk or here != count:
            raise UnsupportedError("zip archives in several parts are not supported", hint="join the parts first")
        if offset + size != end:
            raise bad("its directory does not end where its end record starts")
        return offset, size, count

    def _find_directory64(self, end: int) -> tuple[int, ...] | None:
        """The zip64 end record's numbers and its offset, where there is one before the end record."""
        if end < LOCATOR64.size:
            return None
        magic, _, at, _ = LOCATOR64.unpack(self._source.read_at(end - LOCATOR64.size, LOCATOR64.size))
        if magic != LOCATOR64_MAGIC:
            return None
        if at + END64.size > end - LOCATOR64.size:
            raise bad("its zip64 locator points past it")
        fields = END64.unpack(self._source.read_at(at, END64.size))
        if fields[0] != END64_MAGIC or fields[1] + 12 != end - LOCATOR64.size - at:
            raise bad("its zip64 end record is not where the locator says")
        return (*fields[4:], at)

    def _read_directory(self, data: memoryview, count: int) -> Iterator[Entry]:
        at = 0
        for _ in range(count):
            if at + CENTRAL.size > len(data):
                raise bad("its directory is cut short")
            fields = CENTRAL.unpack_from(data, at)
            magic, made_by, needed, flags, method, _, _, crc, packed, size, name_len, extra_len = fields[:12]
            comment_len, disk, _, attributes, header = fields[12:]
            start = at + CENTRAL.size
            end = start + name_len + extra_len + comment_len
            if magic != CENTRAL_MAGIC or end > len(data):
                raise bad("its directory holds something else than entries")
            name = bytes(data[start : start + name_len])
            if packed == FULL32 or size == FULL32 or header == FULL32 or disk == FULL16:
                size, packed, header = _widen(data[start + name_len : end - comment_len], size, packed, header)
            entry = Entry(name, flags, method, crc, packed, size, header)
            if needed & 0xFF > NEWEST or disk or attributes:  # torch and numpy set none of them
                _check_kind(entry, made_by, needed, disk, attributes)
            yield entry
            at = end
        if at != len(data):
            raise bad("its directory is longer than its entries")

    def _check_overlap(self) -> None:
        position = 0
        for entry in sorted(self.entries.values(), key=lambda entry: entry.header):
            if entry.header < position:
                raise bad(f"its entry {show(entry)} overlaps another")
            position = entry.header + LOCAL.size + len(entry.name) + entry.packed
        if position > self._directory:
            raise bad("its entries run into its directory")

    def span(self, name: str) -> ByteSpan:
        """Where the entry's contents lie. A compressed entry is inflated into a temporary file when it is first read.

        Costs one small read, or less where entries are small and asked for in their order. Raises CorruptFileError
        where the local header says something else, KeyError.
        """
        entry = self.entries[name]
        header = self._local_header(entry)
        magic, _, flags, method, _, _, crc, packed, size, name_len, extra_len = LOCAL.unpack_from(header)
        has_magic = magic == LOCAL_MAGIC or (self.stamp and not entry.header)
        if not has_magic or method != entry.method or name_len != len(entry.name):
            raise bad(f"the two headers of {show(entry)} differ")
        if header[LOCAL.size :] != entry.name:
            raise bad(f"the two headers of {show(entry)} have different names")
        if (flags | entry.flags) & (ENCRYPTED | PATCHED) or method not in (STORED, DEFLATED):
            raise _refused(entry, flags)
        if not flags & SIZES_FOLLOW and (
            packed not in (entry.packed, FULL32) or size not in (entry.size, FULL32) or crc != entry.crc32
        ):
            raise bad(f"the two headers of {show(entry)} give different sizes or checksums")
        start = entry.header + LOCAL.size + name_len + extra_len
        if start + entry.packed > self._directory:
            raise bad(f"{show(entry)} runs into the directory")
        return self._contents(entry, start)

    def _local_header(self, entry: Entry) -> bytes:
        """The entry's local header with its name. Headers of small entries are read ahead where they are asked for in
        their order, since a system call for each of a hundred thousand takes noticeable time.
        """
        length = LOCAL.size + len(entry.name)
        start, ahead = self._ahead
        at = entry.header - start
        if 0 <= at <= len(ahead) - length:
            return ahead[at : at + length]
        is_next = entry.packed < AHEAD // 8 and 0 <= at <= AHEAD
        count = max(length, min(AHEAD, self._directory - entry.header)) if is_next else length
        data = bytes(self._source.read_at(entry.header, count))
        self._ahead = entry.header, data
        return data[:length]

    def _from_ahead(self, span: ByteSpan) -> bytes:
        """The contents of a small entry, where they were read ahead with its header; b"" otherwise."""
        start, ahead = self._ahead
        at = span.offset - start
        return (
            ahead[at : at + span.length] if span.file is self._source and 0 <= at <= len(ahead) - span.length else b""
        )

    def _contents(self, entry: Entry, start: int) -> ByteSpan:
        recorded = entry.crc32 or None  # torch writes 0 for "not computed"
        if entry.method == DEFLATED:
            if entry.size > entry.packed * MAX_INFLATED_RATIO:
                raise LimitError(f"{show(entry)} claims to inflate beyond what deflate can")
            known = self._inflated.get(start)  # so that an entry is inflated once only
            if known is None:
                known = self._inflated[start] = Inflated(self._source, entry, start, self._spool)
            return ByteSpan(known, 0, entry.size, recorded)
        if entry.packed != entry.size:
            raise bad(f"{show(entry)} is stored and has two different sizes")
        return ByteSpan(self._source, start, entry.size, recorded)

    def read(self, name: str, limit: int) -> bytes:
        """A whole entry, checked against its CRC-32. Raises LimitError past `limit` bytes, CorruptFileError."""
        span = self.span(name)
        if isinstance(span.file, Inflated):
            taken = max(FREE_PARSED_BYTES, MAX_PARSED_RATIO * self.entries[name].packed)
            limit = min(limit, MAX_INFLATED_RECORD, taken)
        if span.length > limit:
            raise LimitError(f"{name!r} has {span.length:,} bytes; the limit is {limit:,}")
        data = self._from_ahead(span) or bytes(span.file.read_at(span.offset, span.length))
        if span.recorded_crc32 is not None and crc32(data) != span.recorded_crc32:
            raise bad(f"{name!r} fails its CRC-32")
        return data

    def check_names(self) -> None:
        """Raise CorruptFileError where a name is not UTF-8, as it may be in archives of old programs."""
        for entry in self.entries.values():
            _utf8(entry)

    def start(self, name: str, length: int) -> bytes:
        """The first `length` bytes of an entry, or all where it has fewer, unchecked. A compressed one is inflated no
        further than that. Raises CorruptFileError, KeyError.
        """
        span = self.span(name)
        length = min(length, span.length)
        if isinstance(span.file, Inflated):
            return span.file.start(length)
        return bytes(span.file.read_at(span.offset, length))


def _name(entry: Entry) -> str:
    """The entry's name: UTF-8, or code page 437 where it does not say that it is (APPNOTE.TXT, appendix D)."""
    try:
        return _utf8(entry)
    except CorruptFileError:
        if entry.flags & IN_UTF8:
            raise
    return entry.name.decode("cp437")


def _utf8(entry: Entry) -> str:
    try:
        return entry.name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad(f"the name of its entry {show(entry)} is not UTF-8") from error


def _check_kind(entry: Entry, made_by: int, needed: int, disk: int, attributes: int) -> None:
    """Refuse an entry that is not a plain file, or that needs a newer version of the zip format."""
    if needed & 0xFF > NEWEST:
        what = f"version {(needed & 0xFF) / 10} of the zip format"
        raise UnsupportedError(f"its entry {show(entry)} asks for {what}", hint="pack it stored or deflated")
    if disk not in (0, FULL16):
        raise UnsupportedError("zip archives in several parts are not supported", hint="join the parts first")
    if attributes & FOLDER and not entry.name.endswith(b"/"):  # torch takes its contents from uninitialised memory
        raise bad(f"its entry {show(entry)} is marked as a folder")
    if made_by >> 8 == UNIX and attributes >> 28 == SYMLINK:
        raise UnsupportedError(f"its entry {show(entry)} is a symbolic link", hint="pack the file itself")


def _refused(entry: Entry, flags: int) -> UnsupportedError:
    if (flags | entry.flags) & ENCRYPTED:
        return UnsupportedError(f"{show(entry)} is encrypted", hint="decrypt the archive first")
    if (flags | entry.flags) & PATCHED:
        return UnsupportedError(f"{show(entry)} is patch data", hint="pack the archive again")
    return UnsupportedError(f"{show(entry)} uses zip method {entry.method}", hint="pack it stored or deflated")


def _widen(extra: memoryview, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Replace each value that did not fit in 32 bits by the zip64 extra field's, in the order that the format fixes."""
    field = _zip64_field(extra)
    if field is None:
        return size, packed, header
    wide = [int.from_bytes(field[i : i + 8], "little") for i in range(0, len(field) - 7, 8)]
    values = [size, packed, header]
    for i, value in enumerate(values):
        if value == FULL32:
            if not wide:
                raise bad("a zip64 field is too short")
            values[i] = wide.pop(0)
    return values[0], values[1], values[2]


def _zip64_field(extra: memoryview) -> memoryview | None:
    """The first zip64 field of an entry's extra fields, each of which is a kind, a length, and so many bytes."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = int.from_bytes(extra[at : at + 2], "little"), int.from_bytes(extra[at + 2 : at + 4], "little")
        if kind == ZIP64_EXTRA:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None
