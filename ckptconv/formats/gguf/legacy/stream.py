"""A ggml file of before GGUF from its first byte on: little-endian numbers and texts, read in blocks; arrays are passed
over.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, LimitError
from ckptconv.io.limits import MAX_GGUF_HEADER

if TYPE_CHECKING:
    from ckptconv.io.source import Source

I32, F32 = Struct("<i"), Struct("<f")
FIRST_BLOCK, MAX_BLOCK = 1 << 10, 256 << 10
"""After a jump little is read at first, since another will follow."""


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the layout."""
    return CorruptFileError(f"the ggml file is invalid: {what}")


class Stream:
    """A place in the file, which moves on as its bytes are taken or passed over."""

    def __init__(self, source: Source, at: int) -> None:
        self.source, self.at = source, at
        self._base, self._data, self._block = at, b"", FIRST_BLOCK
        self._left = MAX_GGUF_HEADER

    @property
    def left(self) -> int:
        """Bytes to the end of the file."""
        return self.source.size - self.at

    def take(self, count: int) -> bytes:
        """The next bytes. Raises CorruptFileError past the end, LimitError where it comes to too many altogether."""
        if count > self.left:
            raise bad(
                f"it ends at byte {self.source.size:,}, and {count:,} more are asked for from byte {self.at:,} on"
            )
        self._left -= count
        if self._left < 0:
            raise LimitError(f"its header is longer than {MAX_GGUF_HEADER:,} bytes")
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
        """Pass over bytes; says where they begin. Raises CorruptFileError past the end."""
        start = self.at
        if count > self.left:
            raise bad(f"it ends at byte {self.source.size:,}, and bytes {start:,} to {start + count:,} are asked for")
        self.at += count
        return start

    def count(self, what: str, most: int) -> int:
        """A number that is no negative one, and no larger than `most`."""
        (number,) = I32.unpack(self.take(4))
        if not 0 <= number <= most:
            raise bad(f"{what} is {number:,}")
        return int(number)

    def integer(self) -> int:
        """A number."""
        return int(I32.unpack(self.take(4))[0])

    def real(self) -> float:
        """A float of four bytes."""
        return float(F32.unpack(self.take(4))[0])

    def text(self, what: str, most: int) -> str:
        """A text, behind its length; other bytes than UTF-8 become lone surrogates, as in a GGUF."""
        return self.take(self.count(f"the length of {what}", most)).decode("utf-8", "surrogateescape")
