"""Where in a text something stands."""

from __future__ import annotations


class Lines:
    """The lines of a file; places that are asked for in their order are counted on from each other."""

    def __init__(self, path: str, text: str) -> None:
        self._path, self._text = path, text
        self._at, self._count = 0, 1

    def at(self, place: int) -> str:
        """The file, and the line that a place is in."""
        if place < self._at:
            self._at, self._count = 0, 1
        self._count += self._text.count("\n", self._at, place)
        self._at = place
        return f"{self._path}: line {self._count:,}"
