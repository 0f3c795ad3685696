"""Names of the tensors of a graph, put together of those of what they lie in: functions, loops, layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.names import numbered
from ckptconv.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Container

NAMES_A_BYTE = 4
FREE_NAMES = 1 << 20
"""Characters that names may have for each byte of the file, and beside that: a long one may stand before many."""


class GraphNames:
    """Makes the names of one file, whose size bounds what they come to altogether."""

    def __init__(self, size: int) -> None:
        self._left = NAMES_A_BYTE * size + FREE_NAMES

    def joined(self, *parts: str) -> str:
        """The parts as one name. Raises LimitError where all names are longer than any graph's."""
        self._left -= sum(map(len, parts))
        if self._left < 0:
            raise LimitError("its names repeat each other, more than any writer would")
        return "".join(parts)

    def free(self, name: str, taken: Container[str]) -> str:
        """The name, with a number behind it where it is taken: ``w#2``."""
        return self.joined(numbered(name, taken))
