"""Reads more files than a process may hold open: only those that were read last keep a handle.

The others are reopened when they are read again, which fails if another file is in their place by then.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

from ckptconv.io.source import Source

if TYPE_CHECKING:
    from os import PathLike

MAX_HANDLES = 128
"""The most files of one checkpoint that are open at a time. Systems allow a process 256 to 1,024 in all."""


class Handles:
    """The files that have a handle, least recently used first. A file that is being read never loses its handle."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._readers: OrderedDict[PooledSource, int] = OrderedDict()

    def __reduce__(self) -> tuple[type[Handles], tuple[int]]:
        return Handles, (self._most,)  # handles cannot be passed to another process

    def take(self, file: PooledSource) -> None:
        with self._lock:
            file.reopen_handle()
            self._readers[file] = self._readers.get(file, 0) + 1
            self._readers.move_to_end(file)
            if len(self._readers) > self._most:
                idle = next((candidate for candidate, readers in self._readers.items() if not readers), None)
                if idle is not None:
                    idle.release_handle()
                    del self._readers[idle]

    def give_back(self, file: PooledSource) -> None:
        with self._lock:
            self._readers[file] -= 1


class PooledSource(Source):
    """One of many files, whose handle may be released between two reads."""

    def __init__(self, path: str | PathLike[str], handles: Handles) -> None:
        super().__init__(path)
        self._handles = handles
        handles.take(self)
        handles.give_back(self)

    def _read_small(self, offset: int, length: int) -> bytes:
        self._handles.take(self)
        try:
            return super()._read_small(offset, length)
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
