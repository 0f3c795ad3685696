"""Reading an array that is made of chunks, each of which is there, in a shard, or is not there at all.

In C order any range of the image is one run of each chunk that it touches, whatever the grid: both count their elements
in the same order. So a stream through a chunk never has to go back (`streams`). Chunks in another order are read whole.

Index of a shard: u64 offset and u64 length, little-endian, of each chunk in it, in C order (both 2^64 - 1: none), and
perhaps their CRC-32C.
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
from ckptconv.formats.flax.orbax.streams import Key, Streams, named
from ckptconv.io.crc32c import crc32c
from ckptconv.io.grid import read_grid
from ckptconv.io.limits import MAX_ZARR_WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.dtypes import DType
    from ckptconv.formats.flax.orbax.zarr import Header, Sharding

_NONE = b"\xff" * 16
_KEPT_BYTES = 32 << 20
_SUM = 4


@dataclass(slots=True)
class Kept:
    """What was read last of a checkpoint's arrays: streams, chunks that are read whole, indexes of shards."""

    streams: Streams = field(default_factory=Streams)
    data: OrderedDict[Key, bytes] = field(default_factory=OrderedDict)
    size: int = 0
    lock: Lock = field(default_factory=Lock)

    def of(self, key: Key, read: Callable[[], bytes]) -> bytes:
        """What was read of this chunk, or is read now."""
        with self.lock:
            found = self.data.get(key)
            if found is not None:
                self.data.move_to_end(key)
                return found
        found = read()
        with self.lock:
            self.size += len(found) if key not in self.data else 0
            self.data[key] = found
            while self.size > _KEPT_BYTES and len(self.data) > 1:
                self.size -= len(self.data.popitem(last=False)[1])
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """Reads ranges of the image of an array; elements under 8 bits take a byte each in it.

    find:  where what a key of the array holds lies; None where there is no such key.
    width: bytes of an element.
    part:  bytes of the numbers that an element is made of, two of a complex one.
    """

    name: str
    header: Header
    find: Callable[[str], ByteSpan | None]
    kept: Kept
    width: int
    part: int

    @property
    def chunk(self) -> tuple[int, ...]:
        """The shape of what is compressed as a whole."""
        return self.header.sharding.shape if self.header.sharding else self.header.chunk

    @property
    def light(self) -> bool:
        """Whether small pieces cost no more than large ones: chunks are whole rows."""
        rows = zip(self.chunk[1:], self.header.shape[1:], strict=True)
        return self.header.codec.axes is None and all(n >= m for n, m in rows)

    def __call__(self, start: int, stop: int) -> memoryview:
        try:
            return self._read(start, stop)
        except CkptconvError as error:
            raise named(error, self.name) from error.__cause__

    def _read(self, start: int, stop: int) -> memoryview:
        import numpy as np

        width = self.width
        first, last = start // width, -(-stop // width)
        raw = read_grid(self.header.shape, self.chunk, width, first, last, self._part).view(np.uint8)
        if self.header.codec.swapped and self.part > 1:
            raw = raw.reshape(-1, self.part)[:, ::-1].reshape(-1)
        return raw.data[start - first * width : stop - first * width]

    def _part(self, place: tuple[int, ...], within: list[int], size: tuple[int, ...]) -> Array:
        """The elements of a chunk from `within` on, as many as `size` says; or one for all of them."""
        import numpy as np

        span = self.locate(place)
        if span is None:
            return np.frombuffer(self._fill(), f"V{self.width}", count=1)
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
        """Elements [start, stop) of a chunk, as it lies."""
        size = prod(self.chunk) * self.width
        return self.kept.streams.read(span, self.header.codec, size, start * self.width, stop * self.width)

    def _whole(self, span: ByteSpan) -> bytes:
        count = prod(self.chunk)
        size = count * self.width
        if size > MAX_ZARR_WHOLE:
            raise too_much(
                f"it has chunks of {size:,} bytes in another order than C's; the limit is {MAX_ZARR_WHOLE:,}"
            )
        key = span.file, span.offset, span.length, self.header.codec, size
        return self.kept.of(key, lambda: bytes(self._run(span, 0, count)))

    def locate(self, place: tuple[int, ...]) -> ByteSpan | None:
        """Where the chunk at this place of the grid lies; None where it is not there."""
        sharding = self.header.sharding
        if sharding is None:
            return self.find(self.header.key(place))
        counts = [n // m for n, m in zip(self.header.chunk, sharding.shape, strict=True)]
        shard = self.find(self.header.key([i // n for i, n in zip(place, counts, strict=True)]))
        if shard is None:
            return None
        key = shard.file, shard.offset, shard.length, None, prod(counts)
        index = self.kept.of(key, lambda: _read_index(shard, sharding, prod(counts)))
        inner = sum(i % n * s for i, n, s in zip(place, counts, contiguous_strides(counts), strict=True))
        entry = index[16 * inner : 16 * inner + 16]
        if entry == _NONE:
            return None
        offset, length = int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:], "little")
        if offset > shard.length or length > shard.length - offset:
            raise bad("a chunk lies past the end of its shard")
        return ByteSpan(shard.file, shard.offset + offset, length)

    def only(self) -> bytes:
        """The image of an array without dimensions. Needs no numpy, unless its chunk is not there."""
        try:
            span = self.locate(())
            data = self._fill() if span is None else bytes(self._run(span, 0, 1))
        except CkptconvError as error:
            raise named(error, self.name) from error.__cause__
        return self._turned(data) if self.header.codec.swapped else data

    def _turned(self, data: bytes) -> bytes:
        """An element in the other byte order."""
        return b"".join(data[i : i + self.part][::-1] for i in range(0, len(data), self.part))

    def _fill(self) -> bytes:
        """An element of a chunk that is not there, as it would lie in one."""
        dtype = self.header.dtype
        assert dtype is not None
        data = _fill_of(self.name, self.header.fill, dtype)
        return self._turned(data) if self.header.codec.swapped else data


def _read_index(shard: ByteSpan, sharding: Sharding, count: int) -> bytes:
    """The index of a shard of so many chunks. Raises CorruptFileError."""
    size = 16 * count + (_SUM if sharding.summed else 0)
    if size > shard.length:
        raise bad("a shard is shorter than its index")
    at = 0 if sharding.at_start else shard.length - size
    data = bytes(shard.file.read_at(shard.offset + at, size))
    if sharding.summed and crc32c(data[:-_SUM]) != int.from_bytes(data[-_SUM:], "little"):
        raise bad("the index of a shard fails its checksum")
    return data[: 16 * count]


def _fill_of(name: str, fill: Any, dtype: DType) -> bytes:
    """The bytes of a fill value: a number, text for those that JSON has none for, bits in hexadecimal, or two of these.

    None: zeros. Raises CorruptFileError.
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
