"""Entries of a zip archive, and the contents of those that are compressed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError
from ckptconv.io.checksum import CHUNK

if TYPE_CHECKING:
    from ckptconv.io.source import Source
    from ckptconv.io.spool import Spool
    from ckptconv.io.window import Window


HEAD = 4096
"""How many bytes of an entry's beginning are inflated first, without the rest."""


@dataclass(slots=True)
class Entry:
    """One entry of the central directory. `header` is where its local entry starts."""

    name: bytes
    flags: int
    method: int
    crc32: int
    packed: int
    size: int
    header: int


def bad(what: str) -> CorruptFileError:
    """The error for a damaged archive."""
    return CorruptFileError(f"the zip archive is damaged: {what}")


def show(entry: Entry) -> str:
    """The entry's name, for errors."""
    return repr(entry.name.decode("utf-8", "replace"))


class Inflated:
    """The contents of a compressed entry, inflated into the spool when they are first read."""

    def __init__(self, source: Source | Window, entry: Entry, start: int, spool: Spool) -> None:
        self._source, self._entry, self._start, self._spool = source, entry, start, spool
        self._place: int | None = None
        self._lock = Lock()

    @property
    def path(self) -> object:
        """The archive's path, for errors."""
        return getattr(self._source, "path", None)

    def start(self, length: int) -> bytes:
        """The first `length` bytes, without inflating the others."""
        if not length:
            return b""
        stream, data = zlib.decompressobj(-zlib.MAX_WBITS), b""
        for at in range(0, self._entry.packed, CHUNK):
            piece = self._source.read_at(self._start + at, min(CHUNK, self._entry.packed - at)).tobytes()
            data += self._step(stream, piece, length - len(data))
            if len(data) == length:
                return data
        raise bad(f"{show(self._entry)} inflates to less than it claims")

    def _inflated(self) -> int:
        with self._lock:
            if self._place is None:
                place = self._spool.take(self._entry.size)
                self._inflate(place)
                self._place = place
            return self._place

    def _inflate(self, start: int) -> None:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        progress = getattr(self._source, "progress", None)
        written = 0
        for at in range(0, self._entry.packed, CHUNK):
            piece: bytes = self._source.read_at(self._start + at, min(CHUNK, self._entry.packed - at)).tobytes()
            data = piece
            while piece or len(data) == CHUNK:  # a full piece may not be all of what has been taken in
                data = self._step(stream, piece)
                if written + len(data) > self._entry.size:
                    raise bad(f"{show(self._entry)} inflates to more than it claims")
                self._spool.write(data, start + written)
                written += len(data)
                piece = stream.unconsumed_tail
            if progress is not None:
                progress(written, self._entry.size)
        if written != self._entry.size or not stream.eof:
            raise bad(f"{show(self._entry)} inflates to less than it claims")

    def _step(self, stream: zlib._Decompress, piece: bytes, most: int = CHUNK) -> bytes:
        try:
            return stream.decompress(piece, most)
        except zlib.error as error:
            raise bad(f"{show(self._entry)} does not inflate") from error

    def read_at(self, offset: int, length: int) -> memoryview:
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return memoryview(buffer)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        if self._place is None and not offset and len(buffer) <= min(HEAD, self._entry.size - 1):
            buffer[:] = self.start(len(buffer))  # whoever asks what it is shall not have all of it inflated
            return
        start = self._inflated()
        if offset < 0 or offset + len(buffer) > self._entry.size:
            raise bad(f"bytes past the end of {show(self._entry)} are asked for")
        self._spool.read_into(buffer, start + offset)
