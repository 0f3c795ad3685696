"""Line numbers for messages about a text file."""

from __future__ import annotations


class Lines:
    """Turns positions in a text into ``"FILE: line N"``. Cheap if asked for in ascending order: each count goes on from
    the last.
    """

    def __init__(self, path: str, text: str) -> None:
        self._path, self._text = path, text
        self._at, self._count = 0, 1

    def at(self, position: int) -> str:
        """The file and the number of the line that holds `position`."""
        if position < self._at:
            self._at, self._count = 0, 1
        self._count += self._text.count("\n", self._at, position)
        self._at = position
        return f"{self._path}: line {self._count:,}"
