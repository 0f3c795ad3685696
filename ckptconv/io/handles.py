"""Many files at once: the operating system's handles of all but the last few that were read are given back.

They are taken again when they are needed, which fails where another file lies there by then.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

from ckptconv.io.source import Source

if TYPE_CHECKING:
    from os import PathLike

MAX_HANDLES = 128
"""Files of one checkpoint that the operating system holds open at a time; it grants a process 256 to 1,024 in all."""


class Handles:
    """Which files have a handle, least recently used first. One that is being read from is never taken away."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._readers: OrderedDict[Resting, int] = OrderedDict()

    def __reduce__(self) -> tuple[type[Handles], tuple[int]]:
        return Handles, (self._most,)  # the handles themselves are this process's

    def take(self, file: Resting) -> None:
        with self._lock:
            file.wake()
            self._readers[file] = self._readers.get(file, 0) + 1
            self._readers.move_to_end(file)
            if len(self._readers) > self._most:
                idle = next((one for one, readers in self._readers.items() if not readers), None)
                if idle is not None:
                    idle.rest()
                    del self._readers[idle]

    def give_back(self, file: Resting) -> None:
        with self._lock:
            self._readers[file] -= 1


class Resting(Source):
    """A file of several, whose handle may be given back between two reads."""

    def __init__(self, path: str | PathLike[str], handles: Handles) -> None:
        super().__init__(path)
        self._handles = handles
        handles.take(self)
        handles.give_back(self)

    def _small(self, offset: int, length: int) -> bytes:
        self._handles.take(self)
        try:
            return super()._small(offset, length)
        finally:
            self._handles.give_back(self)

    def _pread(self, buffer: memoryview, offset: int) -> int:
        self._handles.take(self)
        try:
            return super()._pread(buffer, offset)
        finally:
            self._handles.give_back(self)

    def check_unchanged(self) -> None:
        self._handles.take(self)
        try:
            super().check_unchanged()
        finally:
            self._handles.give_back(self)
