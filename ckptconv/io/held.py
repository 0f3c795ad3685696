"""Bytes in memory as a file, for files that are embedded in others as values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.io.source import Source

if TYPE_CHECKING:
    from pathlib import Path


class Held:
    """Bytes in memory that tensors can be read from."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read_at(self, offset: int, length: int) -> memoryview:
        """See `SpanFile`."""
        return self._data[offset : offset + length]

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """See `SpanFile`."""
        buffer[:] = self._data[offset : offset + len(buffer)]


class HeldSource(Source):
    """Bytes in memory as a file for readers. `path` is that of the file that contains them."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._data = memoryview(data)
        self._initialize(path, len(data), (id(data), len(data)))

    def release_handle(self) -> None:
        """It has no handle."""

    def reopen_handle(self) -> None:
        """It has no handle."""

    def place(self, offset: int) -> None:
        """None: the bytes are in no file on disk as they are."""

    def check_unchanged(self) -> None:
        """Does nothing: nobody else can write to the bytes."""

    def _read_small(self, offset: int, length: int) -> bytes:
        return bytes(self._data[offset : offset + length])

    def _pread(self, buffer: memoryview, offset: int) -> int:
        buffer[:] = self._data[offset : offset + len(buffer)]
        return len(buffer)
