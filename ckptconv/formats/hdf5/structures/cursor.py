"""Reads the numbers, addresses and names in a piece of the file, never past its end."""

from __future__ import annotations

from ckptconv.errors import CorruptFileError
from ckptconv.io import cursor


def damaged(what: str) -> CorruptFileError:
    """The error for bytes that contradict the format."""
    return CorruptFileError(f"the HDF5 file is damaged: {what}")


class Cursor(cursor.Cursor):
    """A position in some bytes of the file. All numbers are little-endian.

    offsets: the bytes of an address in this file.
    lengths: the bytes of a length.
    """

    __slots__ = ("lengths", "offsets")

    def __init__(self, data: bytes, what: str, offsets: int = 8, lengths: int = 8) -> None:
        super().__init__(data, what, damaged)
        self.offsets = offsets
        self.lengths = lengths

    def skip(self, count: int) -> None:
        """Skip `count` bytes."""
        self.take(count)

    def uint(self, width: int) -> int:
        """An unsigned integer of `width` bytes."""
        start, end = self.at, self.at + width
        if end > len(self._data):
            raise self.cut_short()
        self.at = end
        return int.from_bytes(self._data[start:end], "little")

    def address(self) -> int | None:
        """An address; None for the undefined one, whose bits are all set."""
        value = self.uint(self.offsets)
        return None if value == (1 << 8 * self.offsets) - 1 else value

    def length(self) -> int:
        """A length."""
        return self.uint(self.lengths)

    def text(self, padded: int = 1) -> bytes:
        """The bytes up to a NUL, which is skipped, and so is padding to a multiple of `padded`."""
        end = self._data.find(b"\0", self.at)
        if end < 0:
            raise damaged(f"{self.what} has a name without an end")
        size = end + 1 - self.at
        return self.take(size + -size % padded).split(b"\0", 1)[0]

    def part(self, count: int, what: str) -> Cursor:
        """The next `count` bytes as a cursor of their own."""
        return Cursor(self.take(count), what, self.offsets, self.lengths)

    def expect(self, magic: bytes, *versions: int) -> int:
        """Skip a signature, and return the version behind it. Raises CorruptFileError if either is not as expected."""
        if magic and self.take(len(magic)) != magic:
            raise damaged(f"{self.what} does not start as one")
        version = self.uint(1)
        if version not in versions:
            raise damaged(f"{self.what} has version {version}, which is not known")
        return version
