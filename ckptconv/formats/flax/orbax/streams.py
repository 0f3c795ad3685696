"""Reads ranges of compressed chunks, with streams that continue where the last range ended.

Tensors are read in order, piece by piece, by one thread or a few. So after each range its stream is kept, and used
again for a range that begins a little further on. A range before it, or far behind it, starts a new stream.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.formats.flax.orbax.compressed import Stream
from ckptconv.formats.flax.orbax.damage import bad
from ckptconv.io.crc32c import crc32c

if TYPE_CHECKING:
    from ckptconv.core.tensor import SpanFile
    from ckptconv.errors import CkptconvError
    from ckptconv.formats.flax.orbax.zarr import Codec

_MAX_IDLE_BYTES = 64 << 20
"""The memory of all idle streams; one with the window of TensorStore's default level takes one or two MiB."""

_MAX_SKIP = 256 << 20
"""The most bytes that a stream skips; threads that share a tensor take turns of 16 MiB."""

_PIECE = 1 << 20
_CHECKSUM = 4

Key = tuple["SpanFile", int, int, "Codec | None", int]
"""A chunk: its file, offset and length, its codec and size. Two arrays may share bytes, and read them differently."""


class Streams:
    """The idle streams of a checkpoint, least recently used first. Thread-safe."""

    def __init__(self) -> None:
        self._idle: list[tuple[Key, Stream]] = []
        self._cost = 0
        self._verified: set[Key] = set()
        self._lock = Lock()

    def read(self, span: ByteSpan, codec: Codec, size: int, start: int, stop: int) -> memoryview:
        """Bytes [start, stop) of a chunk that has `size` bytes, and is stored in `span`.

        Raises CorruptFileError, LimitError, MissingExtraError (for zstd).
        """
        key = span.file, span.offset, span.length, codec, size
        if codec.summed:
            span = self._verify(span, key)
        if not codec.compressor:
            if span.length != size:  # only in a shard; others were checked before
                raise bad(f"a chunk has {span.length:,} bytes, and should have {size:,}")
            return span.file.read_at(span.offset + start, stop - start)
        stream = self._take(key, start) or Stream(span, codec.compressor, size)
        data = stream.read(start, stop)
        if stop < size:
            self._keep(key, stream)
        return data

    def _take(self, key: Key, start: int) -> Stream | None:
        """Take the idle stream of this chunk that is closest before `start`; None if there is none near."""
        with self._lock:
            candidates = [
                (stream.at, i)
                for i, (other, stream) in enumerate(self._idle)
                if other == key and start - _MAX_SKIP <= stream.at <= start
            ]
            if not candidates:
                return None
            _, stream = self._idle.pop(max(candidates)[1])
            self._cost -= stream.cost
            return stream

    def _keep(self, key: Key, stream: Stream) -> None:
        with self._lock:
            self._idle.append((key, stream))
            self._cost += stream.cost
            while self._cost > _MAX_IDLE_BYTES and len(self._idle) > 1:
                self._cost -= self._idle.pop(0)[1].cost

    def _verify(self, span: ByteSpan, key: Key) -> ByteSpan:
        """The span without the checksum at its end, which is checked the first time."""
        if span.length < _CHECKSUM:
            raise bad("a chunk is shorter than its checksum")
        body = ByteSpan(span.file, span.offset, span.length - _CHECKSUM)
        if key not in self._verified:
            value = 0
            for at in range(0, body.length, _PIECE):
                value = crc32c(body.file.read_at(body.offset + at, min(_PIECE, body.length - at)), value)
            if value != int.from_bytes(span.file.read_at(span.offset + body.length, _CHECKSUM), "little"):
                raise bad("a chunk fails its checksum")
            self._verified.add(key)
        return body


def with_name(error: CkptconvError, name: str) -> CkptconvError:
    """The error, whose message names the array."""
    if repr(name) not in error.message:
        error.message = f"tensor {name!r}: {error.message}"
        error.args = (error.message,)
    return error
