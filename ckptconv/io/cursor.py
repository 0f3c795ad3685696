"""Takes bytes one piece after another, and never past the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Cursor:
    """A position in some bytes, which advances as they are taken.

    what: what the bytes are, for errors.
    bad:  makes the error for bytes that contradict the format.
    """

    __slots__ = ("_data", "at", "bad", "what")

    def __init__(self, data: bytes, what: str, bad: Callable[[str], Exception]) -> None:
        self._data = data
        self.at = 0
        self.what = what
        self.bad = bad

    @property
    def left(self) -> int:
        """The number of bytes that have not been taken."""
        return len(self._data) - self.at

    def take(self, count: int) -> bytes:
        """Take the next `count` bytes. Raises what `bad` makes if there are fewer."""
        start, end = self.at, self.at + count
        if end > len(self._data):
            raise self.cut_short()
        self.at = end
        return self._data[start:end]

    def cut_short(self) -> Exception:
        """The error for missing bytes."""
        return self.bad(f"{self.what} is cut short")
