"""Decompresses zstd and zlib's formats piece by piece.

    zstd    28 b5 2f fd, a byte of flags, the window (a byte), a dictionary (0, 1, 2 or 4 bytes), the size (0, 1, 2, 4
            or 8 bytes, little-endian); then blocks
    window  (8 + low three bits) << (7 + the other five). If bit 5 of the flags is set, the window is the size instead,
            and its byte is left out

Orbax's chunks are as large as a device's part of an array, so they are never inflated as a whole: a stream goes through
a chunk once, and gives pieces of any size. A size that the frame states is compared with the expected one. Python has
zstd from 3.14 on; before, the package ``backports.zstd`` has the same module.

Sources: RFC 8878, section 3.1.1.1.
"""

from __future__ import annotations

import sys
import zlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ckptconv.errors import MissingExtraError
from ckptconv.formats.flax.orbax.damage import bad, too_empty, too_much
from ckptconv.io.inflated import Zlib
from ckptconv.io.limits import MAX_ZSTD_WINDOW

if TYPE_CHECKING:
    from ckptconv.core.tensor import ByteSpan
    from ckptconv.io.inflated import Inflater

MAGIC = b"\x28\xb5\x2f\xfd"
_HEADER = 18
_READ = 1 << 17
"""Compressed bytes that are read at a time: a zstd block."""

_SKIP = 1 << 20
"""Bytes that are inflated at a time when they are skipped."""

_OWN_BYTES = 1 << 18
"""The memory of a stream besides its window."""

_ZLIB_WINDOW = 1 << 15


def zstd() -> Any:
    """The zstd module. Raises MissingExtraError if there is none."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(name, "orbax") from error


def options_of(module: Any) -> dict[Any, int]:
    """The options that limit the memory of a zstd stream to `MAX_ZSTD_WINDOW`."""
    return {module.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW.bit_length() - 1}


def window_of(head: bytes, size: int) -> int:
    """The window of a frame with this start, which should inflate to `size` bytes.

    Raises CorruptFileError, LimitError.
    """
    if len(head) < 6 or head[:4] != MAGIC:
        raise bad("a part that should be compressed by zstd does not start so")
    flags, at = head[4], 5
    whole = bool(flags & 0x20)
    window = (8 + (head[at] & 7)) << (7 + (head[at] >> 3))
    at += (not whole) + (0, 1, 2, 4)[flags & 3]
    width = (int(whole), 2, 4, 8)[flags >> 6]
    claimed = int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)
    if width and claimed != size:
        raise bad(f"a part says that it inflates to {claimed:,} bytes, and should have {size:,}")
    window = size if whole else window
    if window > MAX_ZSTD_WINDOW:
        raise too_much(f"a part asks for a window of {window:,} bytes; the limit is {MAX_ZSTD_WINDOW:,}")
    return window


def _inflater(codec: str, head: bytes, size: int) -> tuple[Inflater, int]:
    """A decompressor, and the bytes of its window."""
    if codec != "zstd":
        return Zlib(any_header=True), _ZLIB_WINDOW
    window = window_of(head, size)
    module = zstd()
    return module.ZstdDecompressor(options=options_of(module)), window


class Stream:
    """Inflates a span, which should give `size` bytes, from its start to its end.

    at:   the number of bytes that were inflated so far.
    cost: the memory that the stream takes, in bytes.
    """

    def __init__(self, span: ByteSpan, codec: str, size: int) -> None:
        """Raises CorruptFileError, LimitError, MissingExtraError."""
        head = bytes(span.file.read_at(span.offset, min(_HEADER, span.length)))
        self._inflater, window = _inflater(codec, head, size)
        self._errors = (zlib.error,) if codec != "zstd" else (zstd().ZstdError,)
        self._span, self._size = span, size
        self._consumed = self.at = 0
        self.cost = window + _OWN_BYTES

    def read(self, start: int, stop: int) -> memoryview:
        """Bytes [start, stop) of the inflated data; `start` may not be before `at`. Raises CorruptFileError."""
        while self.at < start:
            self._next(min(_SKIP, start - self.at))
        data = bytearray(stop - start)
        filled = 0
        while filled < len(data):
            piece = self._next(len(data) - filled)
            data[filled : filled + len(piece)] = piece
            filled += len(piece)
        if stop == self._size:
            self._check_end()
        return memoryview(data)

    def _next(self, most: int) -> bytes:
        """The next inflated bytes: at least one, and at most `most`."""
        piece = b""
        while not piece:
            if self._inflater.eof or (self._inflater.needs_input and self._consumed == self._span.length):
                raise bad(f"a part inflates to {self.at:,} bytes, and should have {self._size:,}")
            piece = self._inflate(most)
        self.at += len(piece)
        return piece

    def _inflate(self, most: int) -> bytes:
        data = b""
        if self._inflater.needs_input:
            count = min(_READ, self._span.length - self._consumed)
            data = bytes(self._span.file.read_at(self._span.offset + self._consumed, count))
            self._consumed += count
        try:
            return self._inflater.decompress(data, most)
        except self._errors as error:
            raise bad(f"a part does not inflate: {error}") from error

    def _check_end(self) -> None:
        while not self._inflater.eof:
            if self._inflater.needs_input and self._consumed == self._span.length:
                raise bad("a part does not inflate to its end")
            if self._inflate(1):
                raise bad(f"a part inflates to more than the {self._size:,} bytes that it should have")
        if self._inflater.unused_data or self._consumed < self._span.length:
            raise bad("a part is longer than what it inflates from")


def inflate_all(data: bytes, most: int) -> bytes:
    """Inflate a whole zstd frame, to at most `most` bytes. Raises CorruptFileError, LimitError, MissingExtraError."""
    module = zstd()
    stream = module.ZstdDecompressor(options=options_of(module))
    try:
        inflated: bytes = stream.decompress(data, most)
        if not stream.eof and not stream.needs_input:
            inflated += stream.decompress(b"", 1)
    except module.ZstdError as error:
        raise bad(f"a node does not inflate: {error}") from error
    if len(inflated) > most:
        raise too_empty(f"a node inflates to more than the {most:,} bytes that its size warrants")
    if not stream.eof or stream.unused_data:
        raise bad("a node does not inflate to its end")
    return inflated
