"""Names of a graph's tensors, made of the names of the functions, loops and layers around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.names import numbered
from ckptconv.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Container

CHARACTERS_PER_BYTE = 4
FREE_CHARACTERS = 1 << 20
"""All names together may have so many characters per byte of the file, and so many more: a long prefix may repeat."""


class GraphNames:
    """Makes the names for one file, whose size limits their total length."""

    def __init__(self, size: int) -> None:
        self._left = CHARACTERS_PER_BYTE * size + FREE_CHARACTERS

    def join(self, *parts: str) -> str:
        """Join the parts. Raises LimitError if all names together are longer than in any honest graph."""
        self._left -= sum(map(len, parts))
        if self._left < 0:
            raise LimitError("its names repeat each other, more than any writer would")
        return "".join(parts)

    def unique(self, name: str, taken: Container[str]) -> str:
        """The name, with a number appended if it is taken: ``w#2``."""
        return self.join(numbered(name, taken))
