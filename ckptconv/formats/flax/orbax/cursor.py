"""Reading the numbers of a node one after the other, none of them past its end."""

from __future__ import annotations

from ckptconv.formats.flax.orbax.damage import bad


class Cursor:
    """A place in the bytes of a node, which moves on as numbers are taken; `what` is the node, for errors."""

    __slots__ = ("_data", "at", "what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self.at = 0
        self.what = what

    @property
    def left(self) -> int:
        """Bytes that have not been taken."""
        return len(self._data) - self.at

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises CorruptFileError where there are fewer."""
        start, end = self.at, self.at + count
        if end > len(self._data):
            raise bad(f"{self.what} is cut short")
        self.at = end
        return self._data[start:end]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varints(self, count: int, most: int = (1 << 64) - 1) -> list[int]:
        """So many numbers of seven bits a byte, the lowest first, none of them above `most`."""
        if count > self.left:
            raise bad(f"{self.what} is cut short")
        data, at, end = self._data, self.at, len(self._data)
        found = []
        for _ in range(count):
            value = shift = 0
            while True:
                if at == end:
                    raise bad(f"{self.what} is cut short")
                byte = data[at]
                at += 1
                value |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 63:
                    raise bad(f"{self.what} has a number of more than 64 bits")
            if value > most:
                raise bad(f"{self.what} has the number {value:,} where it may be {most:,} at most")
            found.append(value)
        self.at = at
        return found

    def varint(self, most: int = (1 << 64) - 1) -> int:
        """One such number."""
        return self.varints(1, most)[0]

    def check_end(self) -> None:
        """Raise CorruptFileError where bytes are left."""
        if self.left:
            raise bad(f"{self.what} has {self.left:,} bytes too many")
