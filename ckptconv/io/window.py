"""A range of an open file that can be read from, for containers that are records of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.errors import CUT_SHORT, CorruptFileError

if TYPE_CHECKING:
    from ckptconv.core.tensor import SpanFile
    from ckptconv.io.source import Source


class Window:
    """`size` bytes at `offset` of `file`, which has to stay open."""

    __slots__ = ("_file", "_offset", "size")

    def __init__(self, file: SpanFile, offset: int, size: int) -> None:
        """The file must have these bytes; `of` checks that."""
        self._file = file
        self._offset = offset
        self.size = size

    @classmethod
    def of(cls, source: Source, offset: int, size: int) -> Window:
        """A window of a file. Raises CorruptFileError if the file does not have these bytes."""
        if offset < 0 or size < 0 or offset + size > source.size:
            raise CorruptFileError(
                f"the file ends at byte {source.size:,}, and bytes {offset:,} to {offset + size:,} are asked for",
                path=source.path,
                hint=CUT_SHORT,
            )
        return cls(source, offset, size)

    @property
    def path(self) -> Path:
        """The whole file's path, for errors."""
        path: Path = getattr(self._file, "path", Path())
        return path

    def read_at(self, offset: int, length: int) -> memoryview:
        """`Source.read_at`, with the offset counted from the window's start."""
        self._check_range(offset, length)
        return self._file.read_at(self._offset + offset, length)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """`Source.read_into`, with the offset counted from the window's start."""
        self._check_range(offset, len(buffer))
        self._file.read_into(buffer, self._offset + offset)

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptFileError(
                f"a record of the file ends at its byte {self.size:,}, and bytes {offset:,} to {offset + length:,} "
                "are asked for",
                path=self.path,
            )
