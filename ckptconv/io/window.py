"""A range of an open file, read as a file of its own: whole containers lie in others as records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.io.source import Source


class Window:
    """`size` bytes at `offset` of `source`, which stays open as long as this is read from."""

    __slots__ = ("_offset", "size", "source")

    def __init__(self, source: Source, offset: int, size: int) -> None:
        """Raises CorruptFileError where the file is shorter than that."""
        if offset < 0 or size < 0 or offset + size > source.size:
            raise CorruptFileError(
                f"the file ends at byte {source.size:,}, and bytes {offset:,} to {offset + size:,} are asked for",
                path=source.path,
                hint="the file is cut short: copy it again from where it came",
            )
        self.source = source
        self._offset = offset
        self.size = size

    @property
    def path(self) -> Path:
        """The whole file's, for errors."""
        return self.source.path

    def read_at(self, offset: int, length: int) -> memoryview:
        """As `Source.read_at`, counted from the window's start."""
        self._check_range(offset, length)
        return self.source.read_at(self._offset + offset, length)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """As `Source.read_into`, counted from the window's start."""
        self._check_range(offset, len(buffer))
        self.source.read_into(buffer, self._offset + offset)

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptFileError(
                f"a record of the file ends at its byte {self.size:,}, and bytes {offset:,} to {offset + length:,} "
                "are asked for",
                path=self.path,
                hint="copy the file again from where it came",
            )
