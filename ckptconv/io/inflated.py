r"""A file that is compressed as a whole, read as the file that it holds: it is inflated into an unnamed temporary file.

    \x78 …              zlib (RFC 1950)
    "BZh"               bzip2
    \xfd "7zXZ" \x00    xz
    \x5d \x00 \x00      LZMA, the format before xz
    \x04 "\x22M\x18"    a frame of LZ4, for which Python needs the package ``lz4``

Checksums are checked, where there are any. Refused: a stream that ends too early, anything that follows one, and more
bytes than an honest checkpoint inflates to. For gzip there is `ckptconv.io.gzip`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ckptconv.errors import CorruptFileError, LimitError, MissingExtraError
from ckptconv.io.checksum import CHUNK
from ckptconv.io.limits import MAX_LZMA_MEMORY
from ckptconv.io.spool import Spooled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.io.source import Source

MAGICS = (
    *((bytes([0x78, level]), "zlib") for level in (0x01, 0x5E, 0x9C, 0xDA)),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x5d\0\0", "LZMA"),
    (b"\x04\x22M\x18", "LZ4"),
)


class Inflater(Protocol):
    """The interface of the decompressors of bz2, lzma, lz4 and zstd."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Zlib:
    """zlib's decompressor, with the interface of the others; with `any_header` for gzip's streams too."""

    def __init__(self, *, any_header: bool = False) -> None:
        import zlib

        self._stream = zlib.decompressobj(zlib.MAX_WBITS | (32 if any_header else 0))

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def method(source: Source) -> str | None:
    """The compression of a file, by its first bytes; None where it has none, or another one."""
    start = bytes(source.read_at(0, min(6, source.size)))
    return next((name for magic, name in MAGICS if start.startswith(magic)), None)


def head(source: Source, name: str, length: int) -> bytes:
    """The first bytes of the inflated file, fewer where it is damaged. Inflates little. Raises MissingExtraError."""
    try:
        data = bytes(source.read_at(0, min(source.size, 1 << 20)))  # a block of bzip2's has 900,000 bytes
        start = _inflater(name).decompress(data, length)
        return start or (_literals(data) if name == "LZ4" else start)  # whose blocks have up to four megabytes
    except _damage_errors():
        return b""


class Inflated(Spooled):
    """The inflated contents of a file as a file; `path` is the compressed file's."""

    def __init__(self, source: Source, name: str) -> None:
        """Inflate all of it, with calls of the source's `progress`. Raises CorruptFileError, LimitError,
        FileAccessError, MissingExtraError.
        """
        super().__init__(source, _inflated(source, name))


def _inflated(source: Source, name: str) -> Iterator[bytes]:
    stream = _inflater(name)
    for at in range(0, source.size, CHUNK):
        piece = bytes(source.read_at(at, min(CHUNK, source.size - at)))
        while True:
            try:
                data = stream.decompress(piece, CHUNK)
            except MemoryError as error:
                raise LimitError(f"the {name} stream asks for too much memory", hint="do not trust it") from error
            except _damage_errors() as error:
                raise CorruptFileError(f"the {name} stream does not inflate") from error
            yield data
            if stream.eof or (stream.needs_input and len(data) < CHUNK):
                break
            piece = b""
        done = min(at + CHUNK, source.size)
        if source.progress is not None:
            source.progress(done, source.size)
        if stream.eof and (stream.unused_data or done < source.size):
            raise CorruptFileError(f"something follows the {name} stream")
    if not stream.eof:
        raise CorruptFileError(f"the {name} stream ends too early")


def _inflater(name: str) -> Inflater:
    if name == "zlib":
        return Zlib()
    if name == "bzip2":
        from bz2 import BZ2Decompressor

        return BZ2Decompressor()
    if name == "LZ4":
        return _lz4()
    from lzma import FORMAT_ALONE, FORMAT_XZ, LZMADecompressor

    return LZMADecompressor(FORMAT_XZ if name == "xz" else FORMAT_ALONE, memlimit=MAX_LZMA_MEMORY)


def _lz4() -> Inflater:
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ImportError as error:
        raise MissingExtraError("lz4", "lz4") from error
    inflater: Inflater = LZ4FrameDecompressor()
    return inflater


def _literals(data: bytes) -> bytes:
    """The uncompressed bytes at the start of a frame's first block. The frame's header has 7 bytes, 8 more with a size,
    4 more with a dictionary's number, and the block's size has 4; the high bits of a token, and the bytes after it,
    give the number of literals that follow (lz4_Frame_format.md, lz4_Block_format.md).
    """
    if len(data) < 5:
        return b""
    at = 11 + 8 * bool(data[4] & 8) + 4 * bool(data[4] & 1)
    if data[at - 1 : at] >= b"\x80":  # it is not compressed
        return data[at:]
    count = data[at] >> 4 if at < len(data) else 0
    at += 1
    while count >= 15 and at < len(data):
        count += data[at]
        at += 1
        if data[at - 1] < 255:
            break
    return data[at : at + count]


def _damage_errors() -> tuple[type[Exception], ...]:
    import zlib
    from lzma import LZMAError

    return zlib.error, LZMAError, OSError, EOFError, ValueError, RuntimeError  # the last is lz4's
