"""A range of an open file as a file of its own: an archive may be an entry of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from ckptconv.core.tensor import ByteSpan


class ZipSource(Protocol):
    """What a zip archive is read from; `parsed` as in `ckptconv.io.source.Source`."""

    size: int
    parsed: dict[object, object]

    def read_at(self, offset: int, length: int) -> memoryview: ...

    def read_into(self, buffer: memoryview, offset: int) -> None: ...


class Part:
    """The bytes of a span, from 0 on."""

    def __init__(self, span: ByteSpan) -> None:
        self.size = span.length
        self.parsed: dict[object, object] = {}
        self._span = span

    @property
    def path(self) -> object:
        """The path of the whole file, for errors."""
        return getattr(self._span.file, "path", None)

    def read_at(self, offset: int, length: int) -> memoryview:
        """Exactly `length` bytes at `offset`. Raises CorruptFileError past the end."""
        self._check(offset, length)
        return self._span.file.read_at(self._span.offset + offset, length)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`. Raises CorruptFileError past the end."""
        self._check(offset, len(buffer))
        self._span.file.read_into(buffer, self._span.offset + offset)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptFileError(
                f"an archive in the archive has {self.size:,} bytes, and more are asked for",
                hint="copy the file again from where it came",
            )
