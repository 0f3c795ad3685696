"""Reading numbers one after the other, none of them past the end."""

from __future__ import annotations

from ckptconv.errors import CorruptFileError
from ckptconv.io import cursor


def damaged(what: str) -> CorruptFileError:
    """The error for bytes that contradict the format."""
    return CorruptFileError(f"the HDF5 file is damaged: {what}")


class Cursor(cursor.Cursor):
    """A place in some bytes of the file. All numbers are little-endian.

    offsets: lengths: bytes of an address, and of a size, in this file.
    """

    __slots__ = ("lengths", "offsets")

    def __init__(self, data: bytes, what: str, offsets: int = 8, lengths: int = 8) -> None:
        super().__init__(data, what, damaged)
        self.offsets = offsets
        self.lengths = lengths

    def skip(self, count: int) -> None:
        """Move over `count` bytes."""
        self.take(count)

    def uint(self, width: int) -> int:
        """An unsigned integer of `width` bytes."""
        start, end = self.at, self.at + width
        if end > len(self._data):
            raise self.cut_short()
        self.at = end
        return int.from_bytes(self._data[start:end], "little")

    def address(self) -> int | None:
        """An address; None where it is the undefined one, all of whose bits are set."""
        found = self.uint(self.offsets)
        return None if found == (1 << 8 * self.offsets) - 1 else found

    def length(self) -> int:
        """A size."""
        return self.uint(self.lengths)

    def text(self, padded: int = 1) -> bytes:
        """Bytes up to a NUL, and over it; then over what pads them to a multiple of `padded`."""
        end = self._data.find(b"\0", self.at)
        if end < 0:
            raise damaged(f"{self.what} has a name without an end")
        size = end + 1 - self.at
        return self.take(size + -size % padded).split(b"\0", 1)[0]

    def part(self, count: int, what: str) -> Cursor:
        """The next `count` bytes as a cursor of their own."""
        return Cursor(self.take(count), what, self.offsets, self.lengths)

    def expect(self, magic: bytes, *versions: int) -> int:
        """Move over a signature and a version, which is returned. Raises CorruptFileError where they are others."""
        if magic and self.take(len(magic)) != magic:
            raise damaged(f"{self.what} does not start as one")
        version = self.uint(1)
        if version not in versions:
            raise damaged(f"{self.what} has version {version}, which is not known")
        return version
