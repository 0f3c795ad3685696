"""Bytes in memory that are read as a file: whole files stand in others as values."""

from __future__ import annotations


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
