"""Compressed bytes, inflated piece by piece: zstd, and zlib's formats.

    zstd    28 b5 2f fd, a byte of flags, what it says of the window (a byte), of a dictionary (0, 1, 2 or 4 bytes) and
            of the size (0, 1, 2, 4 or 8 bytes, little-endian); then blocks
    window  (8 + low three bits) << (7 + the five others); where the flags' bit 5 is set, it is the size

Chunks of Orbax's are as large as a device's part of an array, so that none is ever inflated whole: a stream goes
through it once, and gives pieces as large as they are asked for. A size that the frame claims is compared with what the
chunk has to have. zstd came into Python with 3.14; before, the package ``backports.zstd`` brings the same module.

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
_FED = 1 << 17
"""Bytes of a file that are read at a time, which is a block of zstd's."""

_SKIPPED = 1 << 20
"""Bytes that are inflated at a time where nobody wants them."""

_OWN_BYTES = 1 << 18
"""What a stream takes beside its window."""

_ZLIB_WINDOW = 1 << 15


def zstd() -> Any:
    """Python's module. Raises MissingExtraError where there is none."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(name, "orbax") from error


def options_of(module: Any) -> dict[Any, int]:
    """What keeps a stream of zstd's from taking more memory than `MAX_ZSTD_WINDOW`."""
    return {module.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW.bit_length() - 1}


def window_of(head: bytes, size: int) -> int:
    """The window of a frame that starts so and has to inflate to `size` bytes. Raises CorruptFileError, LimitError."""
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
    """What undoes a codec, and the bytes of its window."""
    if codec != "zstd":
        return Zlib(any_header=True), _ZLIB_WINDOW
    window = window_of(head, size)
    module = zstd()
    return module.ZstdDecompressor(options=options_of(module)), window


class Stream:
    """Goes through the compressed bytes of a span, which inflate to `size` bytes.

    at:   how many have been inflated.
    cost: bytes of memory that it keeps.
    """

    def __init__(self, span: ByteSpan, codec: str, size: int) -> None:
        """Raises CorruptFileError, LimitError, MissingExtraError."""
        head = bytes(span.file.read_at(span.offset, min(_HEADER, span.length)))
        self._inflater, window = _inflater(codec, head, size)
        self._errors = (zlib.error,) if codec != "zstd" else (zstd().ZstdError,)
        self._span, self._size = span, size
        self._fed = self.at = 0
        self.cost = window + _OWN_BYTES

    def read(self, start: int, stop: int) -> memoryview:
        """Bytes [start, stop) of what it inflates to, `start` not before `at`. Raises CorruptFileError."""
        while self.at < start:
            self._next(min(_SKIPPED, start - self.at))
        made = bytearray(stop - start)
        filled = 0
        while filled < len(made):
            piece = self._next(len(made) - filled)
            made[filled : filled + len(piece)] = piece
            filled += len(piece)
        if stop == self._size:
            self._check_end()
        return memoryview(made)

    def _next(self, most: int) -> bytes:
        """At most so many bytes, and at least one."""
        piece = b""
        while not piece:
            if self._inflater.eof or (self._inflater.needs_input and self._fed == self._span.length):
                raise bad(f"a part inflates to {self.at:,} bytes, and should have {self._size:,}")
            piece = self._inflate(most)
        self.at += len(piece)
        return piece

    def _inflate(self, most: int) -> bytes:
        data = b""
        if self._inflater.needs_input:
            count = min(_FED, self._span.length - self._fed)
            data = bytes(self._span.file.read_at(self._span.offset + self._fed, count))
            self._fed += count
        try:
            return self._inflater.decompress(data, most)
        except self._errors as error:
            raise bad(f"a part does not inflate: {error}") from error

    def _check_end(self) -> None:
        while not self._inflater.eof:
            if self._inflater.needs_input and self._fed == self._span.length:
                raise bad("a part does not inflate to its end")
            if self._inflate(1):
                raise bad(f"a part inflates to more than the {self._size:,} bytes that it should have")
        if self._inflater.unused_data or self._fed < self._span.length:
            raise bad("a part is longer than what it inflates from")


def inflate_all(data: bytes, most: int) -> bytes:
    """A whole frame of zstd's of unknown size. Raises CorruptFileError, LimitError, MissingExtraError."""
    module = zstd()
    stream = module.ZstdDecompressor(options=options_of(module))
    try:
        made: bytes = stream.decompress(data, most)
        if not stream.eof and not stream.needs_input:
            made += stream.decompress(b"", 1)
    except module.ZstdError as error:
        raise bad(f"a node does not inflate: {error}") from error
    if len(made) > most:
        raise too_empty(f"a node inflates to more than the {most:,} bytes that its size warrants")
    if not stream.eof or stream.unused_data:
        raise bad("a node does not inflate to its end")
    return made
