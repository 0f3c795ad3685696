r"""The superblock of an HDF5 file, and reading at the file's addresses.

    [user block]      512, 1024, 2048 … bytes of anything
    "\x89HDF\r\n\x1a\n", then the superblock, with
        version             0 to 3
        sizes               of an address and of a length, in bytes: 2, 4 or 8
        base address        the address 0 of all others: where the superblock starts
        end of file
        root group          the address of its object header (before version 2, in a symbol table entry)
        [checksum]          from version 2 on

Everything else is found by address. Numbers are little-endian; an address of all ones is undefined.

Refused by name: a file that is spread over several (the family and multi drivers), shared header messages in a heap, a
file that is still open for writing. Reported, and left out only with consent: links to and data in other files, virtual
datasets, elements other than numbers and text, filters other than deflate, shuffle and Fletcher's checksum.

Source: "HDF5 File Format Specification Version 3.0" (and 4.0 for its complex and small float types), The HDF Group;
the HDF5 library's ``H5F``, ``H5B2``, ``H5EA``, ``H5FA`` and ``H5HF`` sources where that is silent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CUT_SHORT, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.hdf5.structures.checksum import lookup3
from ckptconv.formats.hdf5.structures.cursor import Cursor, damaged
from ckptconv.io.limits import FREE_HDF5_BYTES, MAX_HDF5_METADATA, MAX_INFLATED_RATIO

if TYPE_CHECKING:
    from ckptconv.io.source import Source
    from ckptconv.io.window import Window

MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_SUPERBLOCK = 128
"""The longest superblock, in bytes."""

_MIN_COST = 64
"""What a read costs of the budget, at least, in bytes."""

_TIMES_READ = 16
"""How often each byte of the file may be read as metadata, on average; real files read few bytes twice."""

_OPEN_FOR_WRITING = 1


def find_superblock(source: Source | Window) -> int | None:
    """The offset of the superblock: 0, 512, 1024 … None if the file has none."""
    start = 0
    while start + len(MAGIC) <= source.size:
        if bytes(source.read_at(start, len(MAGIC))) == MAGIC:
            return start
        start = 2 * start or 512
    return None


def claims(source: Source) -> bool:
    """Whether the file has HDF5's signature."""
    return find_superblock(source) is not None


class Hdf5File:
    """Reads at addresses. The size of the file limits how much metadata is read in all, and how much tensors claim.

    root, extension: the addresses of two object headers: of the root group, and of the superblock's extension.
    """

    def __init__(self, source: Source | Window, whole: ByteSpan | None = None) -> None:
        """Read the superblock. `whole` is where the source lies, if it is part of another file.

        Raises CorruptFileError, UnsupportedError, LimitError.
        """
        base = find_superblock(source)
        if base is None:
            raise CorruptFileError("this is not an HDF5 file: its signature is missing")
        self.source = source
        self._whole = whole or ByteSpan(source, 0, source.size)
        self.base = base
        self.size = source.size - base
        self._read_budget = min(MAX_HDF5_METADATA, FREE_HDF5_BYTES + _TIMES_READ * self.size)
        self._claim_budget = FREE_HDF5_BYTES + MAX_INFLATED_RATIO * self.size
        self.offsets = self.lengths = 8
        data = self.read(0, min(_MAX_SUPERBLOCK, self.size))
        self.root, self.extension, end = self._parse_superblock(data)
        if not base < end <= source.size:
            raise CorruptFileError(
                f"the file ends at byte {source.size:,}, and its superblock says {end:,}",
                hint=CUT_SHORT,
            )

    def _parse_superblock(self, data: bytes) -> tuple[int, int | None, int]:
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
        end += self.base - base  # a file that was appended to another one keeps its base address
        if version < 2:
            if extension is not None or flags:
                raise damaged("its superblock has what its version does not know")
            if cursor.address() is not None:
                raise in_several_files()
            cursor.skip(self.lengths)  # the offset of the root group's name
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
        """The flags of a superblock before version 2, which come after the sizes of B-trees."""
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
        self._read_budget -= max(length, _MIN_COST)
        if self._read_budget < 0:
            raise LimitError("its metadata is read over and over")
        return bytes(self.source.read_at(self.base + address, length))

    def read_data(self, address: int, length: int) -> bytes:
        """As `read`, for the elements of datasets, which cost nothing of the budget."""
        if address + length > self.size:
            raise damaged(f"{length:,} bytes at {address:,} are asked for, and it has {self.size:,}")
        return bytes(self.source.read_at(self.base + address, length))

    def span(self, address: int, length: int) -> ByteSpan:
        """Where these bytes lie in the open file. Raises CorruptFileError past its end."""
        if address + length > self.size:
            raise damaged(f"{length:,} bytes at {address:,} are asked for, and it has {self.size:,}")
        return ByteSpan(self._whole.file, self._whole.offset + self.base + address, length)

    def cursor(self, address: int, length: int, what: str) -> Cursor:
        """A cursor over these bytes; `what` they are is for errors."""
        return Cursor(self.read(address, length), what, self.offsets, self.lengths)

    def checked_cursor(self, address: int, length: int, what: str) -> Cursor:
        """As `cursor`, for bytes that end in a checksum, which is left out. Raises CorruptFileError if it is wrong."""
        data = self.read(address, length)
        if length < 4 or lookup3(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise damaged(f"{what} fails its checksum")
        return Cursor(data[:-4], what, self.offsets, self.lengths)

    def claim(self, name: str, count: int) -> None:
        """Count the bytes that a dataset claims to have. Raises LimitError if all datasets together claim too much."""
        self._claim_budget -= count
        if self._claim_budget < 0:
            raise LimitError(f"{name!r} claims {count:,} bytes, more than the file can hold even if it is compressed")


def in_several_files() -> UnsupportedError:
    """The error for a file that is spread over several."""
    return UnsupportedError(
        "it is one of several files that make an HDF5 file (a family or multi driver)", hint="h5repack them into one"
    )
