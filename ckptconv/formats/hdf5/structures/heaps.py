"""The two older heaps: local ones with the names of a group's members, global ones with variable-length values.

    local:   "HEAP", 0, 3 bytes, size of the data, offset of its free space, address of the data
    global:  "GCOL", 1, 3 bytes, size of the collection; then objects: index u16, links u16, 4 bytes, size, data; index
             0 is free space

Each part of a global heap is padded to a multiple of 8 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.hdf5.structures.cursor import damaged
from ckptconv.io.limits import MAX_HDF5_TEXT

if TYPE_CHECKING:
    from ckptconv.formats.hdf5.structures.superblock import Hdf5File


class LocalHeap:
    """Names by offset."""

    def __init__(self, file: Hdf5File, address: int) -> None:
        cursor = file.cursor(address, 8 + 2 * file.lengths + file.offsets, "a local heap")
        cursor.expect(b"HEAP", 0)
        cursor.skip(3)
        size = cursor.length()
        cursor.length()
        data = cursor.address()
        if data is None:
            raise damaged("a local heap has no data")
        self._data = file.read(data, size)

    def text(self, offset: int) -> bytes:
        """The bytes from `offset` to a NUL."""
        end = self._data.find(b"\0", offset)
        if end < 0:
            raise damaged("a name in a local heap has no end")
        return self._data[offset:end]


class GlobalHeaps:
    """Variable-length values, by the address of their collection and their index in it."""

    def __init__(self, file: Hdf5File) -> None:
        self._file = file
        self._collections: dict[int, dict[int, bytes]] = {}
        self._text_budget = MAX_HDF5_TEXT

    def value(self, address: int, index: int, length: int) -> bytes:
        """The first `length` bytes of a value. Raises CorruptFileError, LimitError."""
        if address not in self._collections:
            self._collections[address] = self._read_collection(address)
        data = self._collections[address].get(index, b"")
        if len(data) < length:
            raise damaged(f"a value of {length:,} bytes is not in its heap")
        return data[:length]

    def count_text(self, nbytes: int) -> None:
        """Count bytes of text that are read. Raises LimitError if they are too many in all."""
        self._text_budget -= nbytes
        if self._text_budget < 0:
            raise LimitError(f"its texts are more than {MAX_HDF5_TEXT:,} bytes", hint="save it without them")

    def _read_collection(self, address: int) -> dict[int, bytes]:
        file, objects = self._file, dict[int, bytes]()
        head = file.cursor(address, 8 + file.lengths, "a global heap")
        head.expect(b"GCOL", 1)
        head.skip(3)
        size = head.length() - head.at - -head.at % 8
        self.count_text(max(0, size))
        cursor = file.cursor(address + head.at + -head.at % 8, size, "a global heap")
        while cursor.left >= 8 + file.lengths:
            index = cursor.uint(2)
            cursor.skip(6)
            length = cursor.length()
            if not index:
                break
            cursor.skip(-file.lengths % 8)
            objects[index] = cursor.take(length)
            cursor.skip(min(-length % 8, cursor.left))
        return objects
