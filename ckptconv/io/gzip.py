r"""Reads the contents of a gzip file, which is inflated into an unnamed temporary file when it is opened.

    \x1f\x8b\x08   flags, time, system, extra field, name, comment
    deflate        …
    8 bytes        CRC-32 and length of the contents; then the next member, or zeros, or the end

Nothing says how long the contents are in all, so that the directory of an archive inside cannot be found without
inflating. Checksums are checked on the way. Refused: a stream that ends too early, anything but a stream or zeros after
one, and more bytes than any honest checkpoint has. Source: RFC 1952.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError
from ckptconv.io.checksum import CHUNK
from ckptconv.io.spool import Spooled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.io.source import Source

GZIP_MAGIC = b"\x1f\x8b\x08"

_WITH_HEADER = 16 + zlib.MAX_WBITS


def head(source: Source, length: int) -> bytes:
    """The first bytes of the contents; fewer if the file is damaged. Inflates little."""
    try:
        data = bytes(source.read_at(0, min(source.size, CHUNK)))
        return zlib.decompressobj(_WITH_HEADER).decompress(data, length)
    except zlib.error:
        return b""


class Gunzipped(Spooled):
    """The contents of a gzip file as a file; `path` is the gzip file's."""

    def __init__(self, source: Source) -> None:
        """Inflate everything, and report to the source's `progress`.

        Raises CorruptFileError, LimitError, FileAccessError.
        """
        super().__init__(source, _inflated(source))


def _inflated(source: Source) -> Iterator[bytes]:
    stream = zlib.decompressobj(_WITH_HEADER)
    for at in range(0, source.size, CHUNK):
        piece: bytes = source.read_at(at, min(CHUNK, source.size - at)).tobytes()
        while piece:
            if stream.eof:
                piece = piece.lstrip(b"\0")
                if not piece:
                    break
                stream = zlib.decompressobj(_WITH_HEADER)
            try:
                yield stream.decompress(piece, CHUNK)
            except zlib.error as error:
                raise CorruptFileError("the gzip stream does not inflate") from error
            piece = stream.unused_data if stream.eof else stream.unconsumed_tail
        if source.progress is not None:
            source.progress(min(at + CHUNK, source.size), source.size)
    if not stream.eof:
        raise CorruptFileError("the gzip stream ends too early")
