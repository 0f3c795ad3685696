"""Two of the indexes of chunks: fixed and extensible arrays, which list chunks by number.

    fixed:       "FAHD", 0, client, entry size, bits of a page, entries, address of the data, checksum
                 "FADB", 0, client, the header, [bitmap of pages], entries, checksum; with pages the checksum comes
                 before them, and each page ends in its own
    extensible:  "EAHD", 0, client, entry size, bits of a number, entries in the index block, least entries of a data
                 block, least data blocks of a super block, bits of a page, 6 counts, the index block, checksum
                 "EAIB", 0, client, the header, entries, addresses of data blocks, then of super blocks, checksum
                 "EASB", 0, client, the header, offset, [bitmaps of pages], addresses of data blocks, checksum
                 "EADB", 0, client, the header, offset, entries as in "FADB", checksum

Client 1 is for filtered chunks, whose entries are address, size and filter mask. Super block n has 2^(n/2) data blocks
of 2^((n+1)/2) times the least entries; the addresses of the first ones are in the index block. A page whose bit is 0
(the first page has the highest bit of a byte) was never written. The bits of all pages of a super block follow each
other without gaps, in as many bytes as if those of each data block filled whole bytes (``H5EA__lookup_elmt``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckptconv.formats.hdf5.structures.cursor import Cursor, damaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.hdf5.structures.superblock import Hdf5File


class Entry(NamedTuple):
    """A chunk by its number. `size` is that in the file; 0 if all chunks have the same."""

    number: int
    address: int
    size: int
    mask: int


class Pages(NamedTuple):
    """The bitmap of a super block's pages, and the number of the bit for a data block's first page."""

    bitmap: bytes
    first: int


_CHECKSUM = 4


def fixed_array(file: Hdf5File, address: int, *, filtered: bool) -> Iterator[Entry]:
    """The written chunks in a fixed array. Raises CorruptFileError."""
    head = file.checked_cursor(address, 12 + file.lengths + file.offsets, "an array of chunks")
    head.expect(b"FAHD", 0)
    entries = _Entries(file, address, head.uint(1), head.uint(1), filtered=filtered)
    page_bits, count, data = head.uint(1), head.length(), head.address()
    if data is not None:
        yield from entries.block(data, b"FADB", 0, 0, count, page_bits, None)


def extensible_array(file: Hdf5File, address: int, *, filtered: bool) -> Iterator[Entry]:
    """The written chunks in an extensible array. Raises CorruptFileError."""
    head = file.checked_cursor(address, 16 + 6 * file.lengths + file.offsets, "an array of chunks")
    head.expect(b"EAHD", 0)
    entries = _Entries(file, address, head.uint(1), head.uint(1), filtered=filtered)
    bits, first, least, pointers, page_bits = (head.uint(1) for _ in range(5))
    head.skip(6 * file.lengths)
    index = head.address()
    if not 0 < bits <= 64 or least.bit_count() != 1 or pointers.bit_count() != 1 or least.bit_length() > bits + 1:
        raise damaged("an array of chunks has blocks of no size")
    if index is not None:
        yield from _ExtensibleArray(entries, bits, least, pointers, page_bits).walk(index, first)


class _Entries:
    """Reads the entries of an array, and the blocks that hold them."""

    def __init__(self, file: Hdf5File, header: int, client: int, size: int, *, filtered: bool) -> None:
        if client != filtered or not (size > file.offsets + 4 if filtered else size == file.offsets):
            raise damaged("an array of chunks has entries of another kind than it should")
        self.file, self.size, self._header, self._client = file, size, header, client

    def take(self, cursor: Cursor, start: int, count: int) -> Iterator[Entry]:
        """The written ones of `count` entries; the first has the number `start`."""
        for number in range(start, start + count):
            address, size, mask = cursor.address(), 0, 0
            if self._client:
                size, mask = cursor.uint(self.size - self.file.offsets - 4), cursor.uint(4)
            if address is not None:
                yield Entry(number, address, size, mask)

    def check_head(self, cursor: Cursor, magic: bytes, offset_size: int = 0) -> None:
        """Check and skip the start of a block."""
        cursor.expect(magic, 0)
        if cursor.uint(1) != self._client or cursor.address() != self._header:
            raise damaged("a block of an array of chunks belongs elsewhere")
        cursor.skip(offset_size)

    def block(
        self, address: int, magic: bytes, offset_size: int, start: int, count: int, page_bits: int, pages: Pages | None
    ) -> Iterator[Entry]:
        """The written entries of a data block. `pages`: its bitmap, if that is in a super block."""
        head = 6 + self.file.offsets + offset_size
        page = 1 << page_bits
        if count <= page:
            cursor = self.file.checked_cursor(address, head + count * self.size + _CHECKSUM, "a block of chunks")
            self.check_head(cursor, magic, offset_size)
            yield from self.take(cursor, start, count)
            return
        page_count = -(-count // page)
        room = 0 if pages is not None else (page_count + 7) // 8
        cursor = self.file.checked_cursor(address, head + room + _CHECKSUM, "a block of chunks")
        self.check_head(cursor, magic, offset_size)
        bitmap, first = pages or Pages(cursor.take(room), 0)
        at = address + head + room + _CHECKSUM
        for i in range(page_count):
            here = min(page, count - i * page)
            if bitmap[(first + i) // 8] & 0x80 >> (first + i) % 8:
                entries = self.file.checked_cursor(at, here * self.size + _CHECKSUM, "a page of chunks")
                yield from self.take(entries, start + i * page, here)
            at += page * self.size + _CHECKSUM


class _ExtensibleArray:
    def __init__(self, entries: _Entries, bits: int, least: int, pointers: int, page_bits: int) -> None:
        self._entries, self._file = entries, entries.file
        self._least, self._page_bits = least, page_bits
        self._offset_size = (bits + 7) // 8
        self._super_blocks = bits - least.bit_length() + 2
        self._in_index = min(2 * (pointers.bit_length() - 1), self._super_blocks)

    def _shape(self, super_block: int) -> tuple[int, int]:
        """The number of data blocks in a super block, and the number of entries in each."""
        return 1 << super_block // 2, self._least << (super_block + 1) // 2

    def walk(self, address: int, first: int) -> Iterator[Entry]:
        file, entries = self._file, self._entries
        blocks = sum(self._shape(n)[0] for n in range(self._in_index))
        supers = self._super_blocks - self._in_index
        head = 6 + file.offsets
        length = head + first * entries.size + (blocks + supers) * file.offsets + _CHECKSUM
        cursor = file.checked_cursor(address, length, "the index block of an array of chunks")
        entries.check_head(cursor, b"EAIB")
        yield from entries.take(cursor, 0, first)
        start = first
        for n in range(self._super_blocks):
            count, size = self._shape(n)
            if n < self._in_index:
                for i in range(count):
                    block = cursor.address()
                    if block is not None:
                        yield from self._data_block(block, start + i * size, size, None)
            elif (block := cursor.address()) is not None:
                yield from self._super_block(block, start, count, size)
            start += count * size

    def _super_block(self, address: int, start: int, count: int, size: int) -> Iterator[Entry]:
        file = self._file
        room = (-(-size >> self._page_bits) + 7) // 8 if size > 1 << self._page_bits else 0
        length = 6 + file.offsets + self._offset_size + count * (room + file.offsets) + _CHECKSUM
        cursor = file.checked_cursor(address, length, "a super block of an array of chunks")
        self._entries.check_head(cursor, b"EASB", self._offset_size)
        bitmap = cursor.take(count * room)
        for i in range(count):
            block = cursor.address()
            if block is not None:
                pages = Pages(bitmap, i * (size >> self._page_bits)) if room else None
                yield from self._data_block(block, start + i * size, size, pages)

    def _data_block(self, address: int, start: int, size: int, pages: Pages | None) -> Iterator[Entry]:
        page_bits = self._page_bits if pages is not None else size.bit_length()  # all in one page
        yield from self._entries.block(address, b"EADB", self._offset_size, start, size, page_bits, pages)
