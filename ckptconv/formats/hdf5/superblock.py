r"""An HDF5 file: the superblock, and reading at the file's addresses.

    [user block]      512, 1024, 2048 … bytes of anything
    "\x89HDF\r\n\x1a\n" and the superblock, which says
        version             0 to 3
        sizes               bytes of an address, and of a size: 2, 4 or 8
        base address        from which all addresses count: where the superblock starts
        end of file
        root group          the address of its object header (before version 2 in a symbol table entry)
        [checksum]          from version 2 on

Everything else is found by address. Numbers are little-endian; an address of all ones is undefined. The files here:

    superblock   where the file starts, reading at addresses, within a budget
    headers      object headers: what a group or a dataset says, in messages
    links        the members of a group: symbol tables, link messages, dense links
    heaps, fractal, btree     where names, strings and links are kept, and how they are found
    datatype, storage         the messages that say what elements a dataset has and where they lie
    attributes   values of attributes, and of datasets of text
    chunk_index, fixed_array, extensible_array, chunks     datasets that lie in pieces, compressed or not
    dataset      a dataset as a tensor
    tree         names of everything, ties, soft links
    read         the checkpoint;  archive: Keras' zip around an HDF5 file

Refused by name: files that several others are parts of (the family and multi drivers), shared header messages in a
heap, a file that its writer still has open. Told, and left out with consent alone: links and data in other files,
virtual datasets, elements that are not numbers or text, other filters than deflate, shuffle and Fletcher's checksum.

Source: "HDF5 File Format Specification Version 3.0" (and 4.0 for its complex and small float types), The HDF Group;
the HDF5 library's ``H5F``, ``H5B2``, ``H5EA``, ``H5FA`` and ``H5HF`` sources where that is silent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CUT_SHORT, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.hdf5.checksum import lookup3
from ckptconv.formats.hdf5.cursor import Cursor, damaged
from ckptconv.io.limits import FREE_HDF5_BYTES, MAX_HDF5_METADATA, MAX_INFLATED_RATIO

if TYPE_CHECKING:
    from ckptconv.io.source import Source
    from ckptconv.io.window import Window

MAGIC = b"\x89HDF\r\n\x1a\n"
_LONGEST = 128
"""Bytes of any superblock, at most."""

_LEAST = 64
"""What a read costs of the budget, at least."""

_TIMES_READ = 16
"""How often each byte of the file may be read as metadata: a few are read twice."""

_OPEN_FOR_WRITING = 1


def find(source: Source | Window) -> int | None:
    """Where the superblock starts: at 0, 512, 1024 … None where nowhere."""
    start = 0
    while start + len(MAGIC) <= source.size:
        if bytes(source.read_at(start, len(MAGIC))) == MAGIC:
            return start
        start = 2 * start or 512
    return None


def claims(source: Source) -> bool:
    """Whether the file has HDF5's signature."""
    return find(source) is not None


class Hdf5File:
    """Reads at addresses. What is read in all, and what tensors claim in all, is bounded by the size of the file.

    root, extension: addresses of two object headers: the root group's, and that of what the superblock says besides.
    """

    def __init__(self, source: Source | Window, whole: ByteSpan | None = None) -> None:
        """Read the superblock. `whole` says where the source lies in another file.

        Raises CorruptFileError, UnsupportedError, LimitError.
        """
        base = find(source)
        if base is None:
            raise CorruptFileError("this is not an HDF5 file: its signature is missing")
        self.source = source
        self._whole = whole or ByteSpan(source, 0, source.size)
        self.base = base
        self.size = source.size - base
        self._left = min(MAX_HDF5_METADATA, FREE_HDF5_BYTES + _TIMES_READ * self.size)
        self._claimable = FREE_HDF5_BYTES + MAX_INFLATED_RATIO * self.size
        self.offsets = self.lengths = 8
        data = self.read(0, min(_LONGEST, self.size))
        self.root, self.extension, end = self._superblock(data)
        if not base < end <= source.size:
            raise CorruptFileError(
                f"the file ends at byte {source.size:,}, and its superblock says {end:,}",
                hint=CUT_SHORT,
            )

    def _superblock(self, data: bytes) -> tuple[int, int | None, int]:
        """The addresses of the root group's header and of the superblock's extension, and the end of the file."""
        cursor = Cursor(data, "the superblock")
        version = cursor.expect(MAGIC, 0, 1, 2, 3)
        if version < 2 and any(cursor.take(4)):
            raise damaged("a part of its superblock has a version that is not known")
        self.offsets, self.lengths = cursor.uint(1), cursor.uint(1)
        if self.offsets not in (2, 4, 8) or self.lengths not in (2, 4, 8):
            raise damaged(f"its addresses have {self.offsets} bytes and its sizes {self.lengths}")
        cursor.offsets, cursor.lengths = self.offsets, self.lengths
        flags = self._old_flags(cursor, version) if version < 2 else cursor.uint(1)
        base, extension, end = cursor.address(), cursor.address(), cursor.address()
        if base is None or end is None:
            raise damaged("it has no size")
        end += self.base - base  # a file that was put behind another one keeps its addresses
        if version < 2:
            if extension is not None or flags:
                raise damaged("its superblock has what its version does not know")
            if cursor.address() is not None:
                raise in_several_files()
            cursor.skip(self.lengths)  # where its name stands
        root = cursor.address()
        if version > 1:
            if lookup3(data[: cursor.at]) != cursor.uint(4):
                raise damaged("the superblock fails its checksum")
            if version == 3 and flags & _OPEN_FOR_WRITING:
                raise UnsupportedError(
                    "the file is marked as open for writing: its writer is at work, or was killed",
                    hint="wait for it to finish; if it was killed, h5clear -s FILE takes the mark away",
                )
        if root is None:
            raise damaged("it has no root group")
        return root, extension, end

    @staticmethod
    def _old_flags(cursor: Cursor, version: int) -> int:
        """The flags of a superblock before version 2, which stand behind the sizes of B-trees."""
        cursor.skip(1)
        if not cursor.uint(2) or not cursor.uint(2):
            raise damaged("its B-trees have no size")
        flags = cursor.uint(4)
        cursor.skip(4 if version else 0)
        return flags

    def read(self, address: int, length: int) -> bytes:
        """Exactly `length` bytes at `address`. Raises CorruptFileError past the end of the file, LimitError."""
        if length < 0 or address + length > self.size:
            raise damaged(f"{length:,} bytes at {address:,} are asked for, and it has {self.size:,}")
        self._left -= max(length, _LEAST)
        if self._left < 0:
            raise LimitError("its metadata is read over and over")
        return bytes(self.source.read_at(self.base + address, length))

    def read_data(self, address: int, length: int) -> bytes:
        """Likewise for elements, which cost nothing of the budget."""
        if address + length > self.size:
            raise damaged(f"{length:,} bytes at {address:,} are asked for, and it has {self.size:,}")
        return bytes(self.source.read_at(self.base + address, length))

    def span(self, address: int, length: int) -> ByteSpan:
        """These bytes, in the file that is open. Raises CorruptFileError where it is shorter."""
        if address + length > self.size:
            raise damaged(f"{length:,} bytes at {address:,} are asked for, and it has {self.size:,}")
        return ByteSpan(self._whole.file, self._whole.offset + self.base + address, length)

    def cursor(self, address: int, length: int, what: str) -> Cursor:
        """The bytes there, to be taken one after the other."""
        return Cursor(self.read(address, length), what, self.offsets, self.lengths)

    def checked(self, address: int, length: int, what: str) -> Cursor:
        """Likewise, without the checksum that ends them. Raises CorruptFileError where that is another."""
        data = self.read(address, length)
        if length < 4 or lookup3(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise damaged(f"{what} fails its checksum")
        return Cursor(data[:-4], what, self.offsets, self.lengths)

    def claim(self, name: str, count: int) -> None:
        """Count bytes that a dataset says it has. Raises LimitError where all together are more than can be."""
        self._claimable -= count
        if self._claimable < 0:
            raise LimitError(f"{name!r} claims {count:,} bytes, more than the file can hold even if it is compressed")


def in_several_files() -> UnsupportedError:
    """The error for a file that has another's parts."""
    return UnsupportedError(
        "it is one of several files that make an HDF5 file (a family or multi driver)", hint="h5repack them into one"
    )
