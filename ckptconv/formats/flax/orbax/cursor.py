"""Reads the numbers in a node, never past its end."""

from __future__ import annotations

from ckptconv.formats.flax.orbax.damage import bad
from ckptconv.io import cursor
from ckptconv.io.varint import varint


class Cursor(cursor.Cursor):
    """A position in the bytes of a node; `what` names it in errors. Numbers are protobuf's varints."""

    __slots__ = ()

    def __init__(self, data: bytes, what: str) -> None:
        super().__init__(data, what, bad)

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varints(self, count: int, most: int = (1 << 64) - 1) -> list[int]:
        """The next `count` numbers: seven bits in each byte, lowest first. Raises CorruptFileError above `most`."""
        if count > self.left:
            raise self.cut_short()
        data, at = self._data, self.at
        found = []
        for _ in range(count):
            try:
                value, at = varint(data, at)
            except IndexError:
                raise self.cut_short() from None
            except OverflowError:
                raise bad(f"{self.what} has a number of more than 64 bits") from None
            if value > most:
                raise bad(f"{self.what} has the number {value:,} where it may be {most:,} at most")
            found.append(value)
        self.at = at
        return found

    def varint(self, most: int = (1 << 64) - 1) -> int:
        """The next number."""
        return self.varints(1, most)[0]

    def check_end(self) -> None:
        """Raise CorruptFileError if any bytes are left."""
        if self.left:
            raise bad(f"{self.what} has {self.left:,} bytes too many")
