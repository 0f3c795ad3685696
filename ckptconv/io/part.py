"""A range of an open file as a file of its own: whole files stand in others as values."""

from __future__ import annotations

from ckptconv.io.source import Source


class Part(Source):
    """`length` bytes at `offset` of `whole`, open as long as this is read from; closing it does nothing."""

    def __init__(self, whole: Source, offset: int, length: int) -> None:
        """The file has that many bytes."""
        self._whole, self._offset = whole, offset
        self._begin(whole.path, length, (*whole.identity, offset, length))

    def spend(self, count: int) -> None:
        """For all of the file."""
        self._whole.spend(count)

    def inflate(self, count: int) -> None:
        """For all of the file."""
        self._whole.inflate(count)

    def rest(self) -> None:
        """It has no handle of its own."""

    def wake(self) -> None:
        """It has no handle of its own."""

    def _small(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return bytes(self._whole.read_at(self._offset + offset, length))

    def _pread(self, buffer: memoryview, offset: int) -> int:
        self._whole.read_into(buffer, self._offset + offset)
        return len(buffer)

    def place(self, offset: int) -> tuple[Source, int] | None:
        """As `Source.place`."""
        return self._whole.place(self._offset + offset)

    def check_unchanged(self) -> None:
        """As `Source.check_unchanged`, of the whole."""
        self._whole.check_unchanged()
