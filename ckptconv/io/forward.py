"""A file that is read from front to back: little-endian numbers and texts are taken, in blocks; payloads are passed
over.
"""

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
"""After a jump little is read at first, since another will follow."""


class Forward:
    """A place in the file, which moves on as its bytes are taken or passed over.

    bad:  makes the error for bytes that contradict the format. most: bytes that may be taken altogether.
    """

    def __init__(self, source: Source, at: int, bad: Callable[[str], CorruptFileError], most: int) -> None:
        self.source, self.at, self.bad = source, at, bad
        self._base, self._data, self._block = at, b"", FIRST_BLOCK
        self._left = self._most = most

    @property
    def left(self) -> int:
        """Bytes to the end of the file."""
        return self.source.size - self.at

    def take(self, count: int) -> bytes:
        """The next bytes. Raises CorruptFileError past the end, LimitError where it comes to too many altogether."""
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
        """Pass over bytes; says where they begin. Raises CorruptFileError past the end."""
        start = self.at
        if count > self.left:
            raise self._ends(count)
        self.at += count
        return start

    def span(self, count: int) -> ByteSpan:
        """The bytes that are passed over. Raises CorruptFileError past the end."""
        return ByteSpan(self.source, self.skip(count), count)

    def _ends(self, count: int) -> CorruptFileError:
        return self.bad(
            f"it ends at byte {self.source.size:,}, and bytes {self.at:,} to {self.at + count:,} are asked for"
        )

    def number(self, width: int) -> int:
        """An unsigned number of so many bytes."""
        return int.from_bytes(self.take(width), "little")

    def signed(self, width: int) -> int:
        """A signed number of so many bytes."""
        return int.from_bytes(self.take(width), "little", signed=True)

    def count(self, what: str, most: int, width: int = 4) -> int:
        """A signed number that is no negative one, and no larger than `most`."""
        number = self.signed(width)
        if not 0 <= number <= most:
            raise self.bad(f"{what} is {number:,}")
        return number

    def entries(self, what: str, width: int, least: int) -> int:
        """An unsigned number of tensors or the like, each of which takes at least so many bytes. Raises LimitError."""
        count = self.number(width)
        if count > MAX_TENSORS:
            raise LimitError(f"it claims {count:,} {what}; the limit is {MAX_TENSORS:,}")
        if count * least > self.left:
            raise self.bad(f"it claims {count:,} {what}, more than fit into it")
        return count

    def real(self) -> float:
        """A float of four bytes."""
        return float(F32.unpack(self.take(4))[0])
