"""A range of an open file as a file of its own, for files that are embedded in others."""

from __future__ import annotations

from ckptconv.io.source import Source


class Part(Source):
    """`length` bytes at `offset` of `whole`, which must stay open and must have these bytes. Closing does nothing."""

    def __init__(self, whole: Source, offset: int, length: int) -> None:
        self._whole, self._offset = whole, offset
        self._initialize(whole.path, length, (*whole.identity, offset, length))

    def spend(self, count: int) -> None:
        """Counts for the whole file."""
        self._whole.spend(count)

    def inflate(self, count: int) -> None:
        """Counts for the whole file."""
        self._whole.inflate(count)

    def release_handle(self) -> None:
        """It has no handle of its own."""

    def reopen_handle(self) -> None:
        """It has no handle of its own."""

    def _read_small(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return bytes(self._whole.read_at(self._offset + offset, length))

    def _pread(self, buffer: memoryview, offset: int) -> int:
        self._whole.read_into(buffer, self._offset + offset)
        return len(buffer)

    def place(self, offset: int) -> tuple[Source, int] | None:
        """See `Source.place`."""
        return self._whole.place(self._offset + offset)

    def check_unchanged(self) -> None:
        """`Source.check_unchanged` for the whole file."""
        self._whole.check_unchanged()
