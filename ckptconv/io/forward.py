"""Reads a file front to back: takes little-endian numbers and texts, reading blocks at a time, and skips payloads."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import LimitError
from ckptconv.io.limits import MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.errors import CorruptFileError
    from ckptconv.io.source import Source

F32 = Struct("<f")
FIRST_BLOCK, MAX_BLOCK = 1 << 10, 256 << 10
"""The block sizes: after a skip, little is read at first, since another skip is likely."""


class Forward:
    """A position in a file, which advances as bytes are taken or skipped.

    bad:  makes the error for bytes that contradict the format.
    most: how many bytes may be taken in all.
    """

    def __init__(self, source: Source, at: int, bad: Callable[[str], CorruptFileError], most: int) -> None:
        self.source, self.at, self.bad = source, at, bad
        self._base, self._data, self._block = at, b"", FIRST_BLOCK
        self._left = self._most = most

    @property
    def left(self) -> int:
        """The number of bytes to the end of the file."""
        return self.source.size - self.at

    def take(self, count: int) -> bytes:
        """Take the next bytes. Raises CorruptFileError past the end, LimitError past `most` bytes in all."""
        if count > self.left:
            raise self._ends(count)
        self._left -= count
        if self._left < 0:
            raise LimitError(f"its header is longer than {self._most:,} bytes")
        start = self.at - self._base
        if start + count > len(self._data):
            self._load(count)
            start = 0
        self.at += count
        return self._data[start : start + count]

    def _load(self, count: int) -> None:
        in_a_row = self._base <= self.at <= self._base + len(self._data)
        self._block = min(2 * self._block, MAX_BLOCK) if in_a_row else FIRST_BLOCK
        self._base, self._data = self.at, bytes(self.source.read_at(self.at, min(max(count, self._block), self.left)))

    def skip(self, count: int) -> int:
        """Skip bytes, and return their offset. Raises CorruptFileError past the end."""
        start = self.at
        if count > self.left:
            raise self._ends(count)
        self.at += count
        return start

    def span(self, count: int) -> ByteSpan:
        """Skip bytes, and return their span. Raises CorruptFileError past the end."""
        return ByteSpan(self.source, self.skip(count), count)

    def _ends(self, count: int) -> CorruptFileError:
        return self.bad(
            f"it ends at byte {self.source.size:,}, and bytes {self.at:,} to {self.at + count:,} are asked for"
        )

    def number(self, width: int) -> int:
        """Take an unsigned number of this many bytes."""
        return int.from_bytes(self.take(width), "little")

    def signed(self, width: int) -> int:
        """Take a signed number of this many bytes."""
        return int.from_bytes(self.take(width), "little", signed=True)

    def count(self, what: str, most: int, width: int = 4) -> int:
        """Take a signed number, which must be from 0 to `most`."""
        number = self.signed(width)
        if not 0 <= number <= most:
            raise self.bad(f"{what} is {number:,}")
        return number

    def entries(self, what: str, width: int, least: int) -> int:
        """Take an unsigned number of entries, such as tensors, each of at least `least` bytes. Raises LimitError."""
        count = self.number(width)
        if count > MAX_TENSORS:
            raise LimitError(f"it claims {count:,} {what}; the limit is {MAX_TENSORS:,}")
        if count * least > self.left:
            raise self.bad(f"it claims {count:,} {what}, more than it can hold")
        return count

    def real(self) -> float:
        """Take a float of four bytes."""
        return float(F32.unpack(self.take(4))[0])
