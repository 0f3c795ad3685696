"""Bytes in memory that are read as a file: whole files stand in others as values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.io.source import Source

if TYPE_CHECKING:
    from pathlib import Path


class Held:
    """Bytes in memory, read as a file."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read_at(self, offset: int, length: int) -> memoryview:
        """As `SpanFile` says."""
        return self._data[offset : offset + length]

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """As `SpanFile` says."""
        buffer[:] = self._data[offset : offset + len(buffer)]


class HeldSource(Source):
    """The same as a file of its own, for readers; `path` is that of the file in which they stand."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._data = memoryview(data)
        self._begin(path, len(data), (id(data), len(data)))

    def rest(self) -> None:
        """It has no handle."""

    def wake(self) -> None:
        """It has no handle."""

    def place(self, offset: int) -> None:
        """No file of the disk has it as it is."""

    def check_unchanged(self) -> None:
        """Nobody else writes to it."""

    def _small(self, offset: int, length: int) -> bytes:
        return bytes(self._data[offset : offset + length])

    def _pread(self, buffer: memoryview, offset: int) -> int:
        buffer[:] = self._data[offset : offset + len(buffer)]
        return len(buffer)
