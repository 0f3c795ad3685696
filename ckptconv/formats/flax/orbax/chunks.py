"""Reads an array in chunks, each of which is stored on its own, in a shard, or not at all.

In C order, any range of the image is one contiguous run in each chunk that it touches, whatever the grid, since both
order elements in the same way. So a stream through a chunk never has to go back (`streams`). Chunks in another order
are read as a whole.

Index of a shard: u64 offset and u64 length, little-endian, of each chunk in it, in C order (both 2^64 - 1 for a missing
chunk), optionally followed by a CRC-32C.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any

from ckptconv.core.arrays import Array, numpy_dtype
from ckptconv.core.strided import contiguous_strides, extent
from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CkptconvError
from ckptconv.formats.flax.orbax.damage import bad, too_much
from ckptconv.formats.flax.orbax.streams import Key, Streams, with_name
from ckptconv.io.crc32c import crc32c
from ckptconv.io.grid import read_grid
from ckptconv.io.limits import MAX_ZARR_WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.dtypes import DType
    from ckptconv.formats.flax.orbax.zarr import Header, Sharding

_MISSING = b"\xff" * 16
_MAX_CACHED_BYTES = 32 << 20
_CHECKSUM = 4


@dataclass(slots=True)
class Cache:
    """What was used last of a checkpoint's arrays: streams, whole chunks, indexes of shards. Thread-safe."""

    streams: Streams = field(default_factory=Streams)
    data: OrderedDict[Key, bytes] = field(default_factory=OrderedDict)
    size: int = 0
    lock: Lock = field(default_factory=Lock)

    def get(self, key: Key, read: Callable[[], bytes]) -> bytes:
        """The cached data for a key, which is read if it is not there."""
        with self.lock:
            found = self.data.get(key)
            if found is not None:
                self.data.move_to_end(key)
                return found
        found = read()
        with self.lock:
            self.size += len(found) if key not in self.data else 0
            self.data[key] = found
            while self.size > _MAX_CACHED_BYTES and len(self.data) > 1:
                self.size -= len(self.data.popitem(last=False)[1])
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """Reads ranges of an array's image, in which elements of fewer than 8 bits take a byte each.

    find:  gives the place of the value of one of the array's keys; None if there is no such key.
    width: the bytes of an element.
    part:  the bytes of a number in an element; a complex element has two numbers.
    """

    name: str
    header: Header
    find: Callable[[str], ByteSpan | None]
    cache: Cache
    width: int
    part: int

    @property
    def chunk(self) -> tuple[int, ...]:
        """The shape of a chunk, within a shard if there are shards."""
        return self.header.sharding.shape if self.header.sharding else self.header.chunk

    @property
    def light(self) -> bool:
        """Whether small ranges cost no more than large ones, because chunks consist of whole rows."""
        rows = zip(self.chunk[1:], self.header.shape[1:], strict=True)
        return self.header.codec.axes is None and all(n >= m for n, m in rows)

    def __call__(self, start: int, stop: int) -> memoryview:
        try:
            return self._read(start, stop)
        except CkptconvError as error:
            raise with_name(error, self.name) from error.__cause__

    def _read(self, start: int, stop: int) -> memoryview:
        import numpy as np

        width = self.width
        first, last = start // width, -(-stop // width)
        raw = read_grid(self.header.shape, self.chunk, width, first, last, self._part).view(np.uint8)
        if self.header.codec.swapped and self.part > 1:
            raw = raw.reshape(-1, self.part)[:, ::-1].reshape(-1)
        return raw.data[start - first * width : stop - first * width]

    def _part(self, place: tuple[int, ...], within: list[int], size: tuple[int, ...]) -> Array:
        """A box of a chunk's elements, from `within` on, of this size; a single element if all are the fill value."""
        import numpy as np

        span = self.locate(place)
        if span is None:
            return np.frombuffer(self._fill_element(), f"V{self.width}", count=1)
        axes = self.header.codec.axes
        if axes is not None:
            whole = np.frombuffer(self._whole(span), f"V{self.width}")
            stored = whole.reshape([self.chunk[axis] for axis in axes])
            cut = tuple(slice(w, w + n) for w, n in zip(within, size, strict=True))
            return stored.transpose([axes.index(axis) for axis in range(len(axes))])[cut]
        strides = contiguous_strides(self.chunk)
        at = sum(w * s for w, s in zip(within, strides, strict=True))
        run = self._run(span, at, at + extent(size, strides))
        steps = [0 if n == 1 else s * self.width for n, s in zip(size, strides, strict=True)]
        return np.ndarray(size, f"V{self.width}", run, strides=steps)

    def _run(self, span: ByteSpan, start: int, stop: int) -> memoryview:
        """Elements [start, stop) of a chunk, in the chunk's own order."""
        size = prod(self.chunk) * self.width
        return self.cache.streams.read(span, self.header.codec, size, start * self.width, stop * self.width)

    def _whole(self, span: ByteSpan) -> bytes:
        """All elements of a chunk. Raises LimitError if it is too large."""
        count = prod(self.chunk)
        size = count * self.width
        if size > MAX_ZARR_WHOLE:
            raise too_much(
                f"it has chunks of {size:,} bytes in another order than C's; the limit is {MAX_ZARR_WHOLE:,}"
            )
        key = span.file, span.offset, span.length, self.header.codec, size
        return self.cache.get(key, lambda: bytes(self._run(span, 0, count)))

    def locate(self, place: tuple[int, ...]) -> ByteSpan | None:
        """Where the chunk at these coordinates of the grid lies; None if it is missing."""
        sharding = self.header.sharding
        if sharding is None:
            return self.find(self.header.key(place))
        counts = [n // m for n, m in zip(self.header.chunk, sharding.shape, strict=True)]
        shard = self.find(self.header.key([i // n for i, n in zip(place, counts, strict=True)]))
        if shard is None:
            return None
        key = shard.file, shard.offset, shard.length, None, prod(counts)
        index = self.cache.get(key, lambda: _read_index(shard, sharding, prod(counts)))
        inner = sum(i % n * s for i, n, s in zip(place, counts, contiguous_strides(counts), strict=True))
        entry = index[16 * inner : 16 * inner + 16]
        if entry == _MISSING:
            return None
        offset, length = int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:], "little")
        if offset > shard.length or length > shard.length - offset:
            raise bad("a chunk lies past the end of its shard")
        return ByteSpan(shard.file, shard.offset + offset, length)

    def read_scalar(self) -> bytes:
        """The image of an array without dimensions. Needs numpy only if its chunk is missing."""
        try:
            span = self.locate(())
            data = self._fill_element() if span is None else bytes(self._run(span, 0, 1))
        except CkptconvError as error:
            raise with_name(error, self.name) from error.__cause__
        return self._swap(data) if self.header.codec.swapped else data

    def _swap(self, data: bytes) -> bytes:
        """An element in the other byte order."""
        return b"".join(data[i : i + self.part][::-1] for i in range(0, len(data), self.part))

    def _fill_element(self) -> bytes:
        """The element for missing chunks, in the byte order of the array."""
        dtype = self.header.dtype
        assert dtype is not None
        data = _encode_fill(self.name, self.header.fill, dtype)
        return self._swap(data) if self.header.codec.swapped else data


def _read_index(shard: ByteSpan, sharding: Sharding, count: int) -> bytes:
    """The index of a shard with `count` chunks. Raises CorruptFileError."""
    size = 16 * count + (_CHECKSUM if sharding.summed else 0)
    if size > shard.length:
        raise bad("a shard is shorter than its index")
    at = 0 if sharding.at_start else shard.length - size
    data = bytes(shard.file.read_at(shard.offset + at, size))
    if sharding.summed and crc32c(data[:-_CHECKSUM]) != int.from_bytes(data[-_CHECKSUM:], "little"):
        raise bad("the index of a shard fails its checksum")
    return data[: 16 * count]


def _encode_fill(name: str, fill: Any, dtype: DType) -> bytes:
    """The little-endian bytes of a fill value. Raises CorruptFileError.

    fill: a number, a text for numbers that JSON does not have, hexadecimal bits, a list of two for a complex number, or
          None for zeros.
    """
    import numpy as np

    width = max(1, dtype.bits // 8)
    if fill is None:
        return bytes(width)
    if isinstance(fill, str) and fill.startswith("0x"):
        if len(fill) == 2 + 2 * width and all(digit in "0123456789abcdefABCDEF" for digit in fill[2:]):
            return int(fill, 16).to_bytes(width, "little")
        raise bad(f"the fill value of {name!r} is {fill!r}")
    try:
        number = float(fill) if isinstance(fill, str) else fill
        if dtype.kind == "complex" and isinstance(fill, list):
            number = complex(*(float(part) for part in fill))
        if not isinstance(number, (int, float, complex)):
            raise bad(f"the fill value of {name!r} is {fill!r}")
        with np.errstate(all="ignore"):
            return np.array(number, numpy_dtype(dtype)).tobytes()
    except (ValueError, TypeError, OverflowError) as error:
        raise bad(f"the fill value of {name!r} is {fill!r}") from error
