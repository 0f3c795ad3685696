"""Fractal heaps, which hold the links and attributes of objects that have many.

    "FRHP", 0, bytes of an id u16, bytes of filters u16, flags, largest managed object u32, huge objects' next id and
            B-tree, free space and its manager, 8 sizes and counts, columns u16, first block's size, largest direct
            block's size, bits of an offset u16, 2 bytes, root block, rows of the root block u16, checksum
    "FHDB"  a direct block: 0, address of the header, its offset in the heap, [checksum], objects
    "FHIB"  an indirect block: 0, address of the header, its offset, addresses of blocks row by row, checksum

Blocks in the first two rows have the first block's size; those of each further row are twice as large as in the row
before. An id says where an object is: managed (offset and length in the heap), huge (an address, or a key of the
B-tree), or tiny (in the id itself).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from ckptconv.errors import UnsupportedError
from ckptconv.formats.hdf5.structures.btree import btree2_records
from ckptconv.formats.hdf5.structures.checksum import lookup3
from ckptconv.formats.hdf5.structures.cursor import Cursor, damaged

if TYPE_CHECKING:
    from ckptconv.formats.hdf5.structures.superblock import Hdf5File


class Kind(IntEnum):
    """The kinds of objects, by number in their ids."""

    MANAGED = 0
    HUGE = 1
    TINY = 2


_OBJECT = "an object in a fractal heap"
_HUGE_INDIRECT = 1
_MOST_BITS = 64
_KEPT_BYTES = 32 << 20
"""Of cached blocks; a million names take as much."""


class FractalHeap:
    """Reads objects by id. Blocks are read on demand, and cached."""

    def __init__(self, file: Hdf5File, address: int) -> None:
        """Read the header. Raises CorruptFileError, UnsupportedError."""
        self._file, self._address = file, address
        head = file.checked_cursor(address, 26 + 12 * file.lengths + 3 * file.offsets, "a fractal heap")
        head.expect(b"FRHP", 0)
        self._id_size, filters, flags, most = head.uint(2), head.uint(2), head.uint(1), head.uint(4)
        if filters:
            raise UnsupportedError("its links or attributes are compressed, which is not supported", hint="h5repack it")
        self._sums = bool(flags & 2)
        head.length()
        self._huge_tree = head.address()
        head.length()
        head.address()
        head.skip(8 * file.lengths)
        self._columns, self._first, self._largest = head.uint(2), head.length(), head.length()
        bits = head.uint(2)
        head.skip(2)
        self._root, self._rows = head.address(), head.uint(2)
        if not self._columns or not self._first or not self._largest >= self._first or not 0 < bits <= _MOST_BITS:
            raise damaged("a fractal heap's blocks have no size")
        self._offset_size = (bits + 7) // 8
        self._length_size = min((self._largest.bit_length() + 6) // 8, (most.bit_length() + 7) // 8)
        self._blocks: dict[int, bytes] = {}
        self._kept = 0
        self._indirect: dict[tuple[int, int], Cursor] = {}
        self._huge: dict[int, tuple[int, int]] | None = None

    def object(self, key: bytes) -> Cursor:
        """The object with this id. Raises CorruptFileError."""
        managed = self._offset_size + 1, self._offset_size + 1 + self._length_size
        if len(key) >= managed[1] and not key[0] >> 4 & 3:  # the fast path for nearly all objects
            offset, length = (int.from_bytes(part, "little") for part in (key[1 : managed[0]], key[slice(*managed)]))
            data = self._managed_object(offset, length)
            return Cursor(data, _OBJECT, self._file.offsets, self._file.lengths)
        cursor = Cursor(key, "the id of an object in a fractal heap", self._file.offsets, self._file.lengths)
        flags = cursor.uint(1)
        match flags >> 4 & 3:
            case Kind.MANAGED:
                data = self._managed_object(cursor.uint(self._offset_size), cursor.uint(self._length_size))
            case Kind.HUGE:
                data = self._file.read(*self._find_huge(cursor))
            case Kind.TINY:
                length = (flags & 15) + 1
                if self._id_size > 17:  # then the length takes another byte
                    length = ((flags & 15) << 8 | cursor.uint(1)) + 1
                data = cursor.take(length)
            case _:
                raise damaged("an object in a fractal heap is of a kind that is not known")
        return Cursor(data, _OBJECT, self._file.offsets, self._file.lengths)

    def _find_huge(self, cursor: Cursor) -> tuple[int, int]:
        file = self._file
        if self._id_size - 1 >= file.offsets + file.lengths:
            address, length = cursor.address(), cursor.length()
            if address is None:
                raise damaged("an object in a fractal heap has no address")
            return address, length
        if self._huge is None:
            self._huge = {}
            records = btree2_records(file, self._huge_tree, _HUGE_INDIRECT) if self._huge_tree is not None else ()
            for record in records:
                address, length = record.address(), record.length()
                self._huge[record.length()] = address or 0, length
        place = self._huge.get(cursor.uint(min(self._id_size - 1, file.lengths)))
        if place is None:
            raise damaged("an object in a fractal heap is missing")
        return place

    def _managed_object(self, offset: int, length: int) -> bytes:
        address, start, size, rows = self._root, 0, self._first, self._rows
        while rows:
            if address is None:
                raise damaged("a block of a fractal heap is missing")
            address, start, size, rows = self._child(address, start, rows, offset)
        if address is None or offset + length > start + size:
            raise damaged("an object is not in its block of a fractal heap")
        return self._block(address, start, size)[offset - start : offset - start + length]

    def _child(self, address: int, start: int, rows: int, offset: int) -> tuple[int | None, int, int, int]:
        """The address, start, size and rows of the block with `offset`, below the indirect block at `address`."""
        row, size, begin = 0, self._first, start
        while offset >= begin + size * self._columns:
            begin += size * self._columns
            size *= 2 if row else 1
            row += 1
            if row >= rows:
                raise damaged("an object is past the end of its fractal heap")
        column = (offset - begin) // size
        cursor = self._indirect.get((address, rows))
        head = 5 + self._file.offsets + self._offset_size
        if cursor is None:
            length = head + rows * self._columns * self._file.offsets + 4
            cursor = self._file.checked_cursor(address, length, "a fractal heap's block")
            self._indirect[address, rows] = cursor
        cursor.at = 0
        self._check_head(cursor, b"FHIB", start)
        cursor.at = head + (row * self._columns + column) * self._file.offsets
        is_direct = size <= self._largest
        child_rows = 0 if is_direct else size.bit_length() - (self._first * self._columns).bit_length() + 1
        if not is_direct and child_rows >= rows:
            raise damaged("a fractal heap has a block in itself")
        return cursor.address(), begin + column * size, size, child_rows

    def _block(self, address: int, start: int, size: int) -> bytes:
        data = self._blocks.get(address)
        if data is None:
            data = self._file.read(address, size)
            self._keep(address, data)
            self._check_head(Cursor(data, "a fractal heap's block", self._file.offsets), b"FHDB", start)
            if self._sums:
                self._check_sum(data)
        return data

    def _keep(self, address: int, data: bytes) -> None:
        self._kept += len(data)
        if self._kept > _KEPT_BYTES:
            self._blocks.clear()
            self._kept = len(data)
        self._blocks[address] = data

    def _check_sum(self, data: bytes) -> None:
        at = 5 + self._file.offsets + self._offset_size
        if lookup3(data[:at] + bytes(4) + data[at + 4 :]) != int.from_bytes(data[at : at + 4], "little"):
            raise damaged("a fractal heap's block fails its checksum")

    def _check_head(self, cursor: Cursor, magic: bytes, start: int) -> None:
        cursor.expect(magic, 0)
        if cursor.address() != self._address or cursor.uint(self._offset_size) != start:
            raise damaged("a fractal heap's block belongs elsewhere")
