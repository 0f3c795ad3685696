"""Ranges of what compressed chunks inflate to, by streams that go on where the last range ended.

Tensors are read in order, piece after piece, by one thread or a few; so a stream is kept after each range, and taken
again for one that begins a little behind it. A range before it, or far behind, starts a new one.
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

_KEPT_BYTES = 64 << 20
"""What streams that wait take in all; one with the window of TensorStore's own levels takes one or two MiB."""

_NEAR = 256 << 20
"""Bytes that are passed over rather than begun again: threads that share a tensor take 16 MiB in turn."""

_PIECE = 1 << 20
_SUM = 4

Key = tuple["SpanFile", int, int, "Codec | None", int]
"""Which chunk: its file, offset and length, and what it is read as: nothing keeps two arrays from sharing bytes, and
saying other things of them.
"""


class Streams:
    """The streams of a checkpoint that wait for their next range, the longest waiting first. For any thread."""

    def __init__(self) -> None:
        self._idle: list[tuple[Key, Stream]] = []
        self._cost = 0
        self._sound: set[Key] = set()
        self._lock = Lock()

    def read(self, span: ByteSpan, codec: Codec, size: int, start: int, stop: int) -> memoryview:
        """Bytes [start, stop) of the chunk of `size` bytes that is stored in `span`.

        Raises CorruptFileError, LimitError, MissingExtraError (of zstd's package).
        """
        key = span.file, span.offset, span.length, codec, size
        if codec.summed:
            span = self._checked(span, key)
        if not codec.compressor:
            if span.length != size:  # of one in a shard
                raise bad(f"a chunk has {span.length:,} bytes, and should have {size:,}")
            return span.file.read_at(span.offset + start, stop - start)
        stream = self._take(key, start) or Stream(span, codec.compressor, size)
        data = stream.read(start, stop)
        if stop < size:
            self._keep(key, stream)
        return data

    def _take(self, key: Key, start: int) -> Stream | None:
        """The nearest stream of this chunk before `start`."""
        with self._lock:
            near = [
                (stream.at, i)
                for i, (other, stream) in enumerate(self._idle)
                if other == key and start - _NEAR <= stream.at <= start
            ]
            if not near:
                return None
            _, stream = self._idle.pop(max(near)[1])
            self._cost -= stream.cost
            return stream

    def _keep(self, key: Key, stream: Stream) -> None:
        with self._lock:
            self._idle.append((key, stream))
            self._cost += stream.cost
            while self._cost > _KEPT_BYTES and len(self._idle) > 1:
                self._cost -= self._idle.pop(0)[1].cost

    def _checked(self, span: ByteSpan, key: Key) -> ByteSpan:
        """The span without the checksum at its end, which is looked at once."""
        if span.length < _SUM:
            raise bad("a chunk is shorter than its checksum")
        body = ByteSpan(span.file, span.offset, span.length - _SUM)
        if key not in self._sound:
            value = 0
            for at in range(0, body.length, _PIECE):
                value = crc32c(body.file.read_at(body.offset + at, min(_PIECE, body.length - at)), value)
            if value != int.from_bytes(span.file.read_at(span.offset + body.length, _SUM), "little"):
                raise bad("a chunk fails its checksum")
            self._sound.add(key)
        return body


def named(error: CkptconvError, name: str) -> CkptconvError:
    """The same error, with the array that it is about."""
    if repr(name) not in error.message:
        error.message = f"tensor {name!r}: {error.message}"
        error.args = (error.message,)
    return error
