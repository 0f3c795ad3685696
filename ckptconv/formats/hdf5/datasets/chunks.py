"""Reads a dataset in chunks, which may be filtered.

Unfiltered chunks are read in place; filtered ones are decoded as a whole, and the last few are cached. A chunk has its
full size even if the dataset ends within it. Chunks that were never written consist of the fill value.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any

from ckptconv.core.strided import contiguous_strides
from ckptconv.core.tensor import Placement, Storage
from ckptconv.errors import CorruptFileError, LimitError
from ckptconv.formats.hdf5.datasets.chunk_index import ChunkTable
from ckptconv.formats.hdf5.datasets.storage import FilterId
from ckptconv.formats.hdf5.structures.checksum import fletcher32
from ckptconv.io.gather import Gather
from ckptconv.io.grid import read_grid
from ckptconv.io.limits import MAX_HDF5_CHUNK, MAX_INFLATED_RATIO

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType
    from ckptconv.formats.hdf5.datasets.storage import Chunked, Filter, Space
    from ckptconv.formats.hdf5.structures.superblock import Hdf5File

_MAX_CACHED_BYTES = 32 << 20
_ENTRY = 256
"""Bytes that a cached chunk takes besides its own, which may be few."""
_MAX_CACHED_TABLES = 4
_SMALL = 1 << 14
"""Chunks of up to this many bytes are read as a whole: finding the part that is needed would take longer."""
_ALL_SKIPPED = -1
"""The filter mask of a chunk to which no filter was applied."""
_CHECKSUM = 4
"""Bytes of Fletcher's checksum, behind a chunk."""


class Cache:
    """The indexes and the decoded chunks that were used last. Thread-safe."""

    def __init__(self) -> None:
        self._tables: OrderedDict[ChunkReader, ChunkTable] = OrderedDict()
        self._chunks: OrderedDict[tuple[ChunkReader, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def table(self, reader: ChunkReader) -> ChunkTable:
        """The index of a dataset, which is read if it is not cached."""
        with self._lock:
            table = self._tables.get(reader)
            if table is None:
                table = self._tables[reader] = reader.read_table()
                if len(self._tables) > _MAX_CACHED_TABLES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(reader)
            return table

    def chunk(self, reader: ChunkReader, address: int) -> bytes | None:
        """A decoded chunk, if it is cached."""
        key = reader, address
        with self._lock:
            data = self._chunks.get(key)
            if data is not None:
                self._chunks.move_to_end(key)
            return data

    def keep(self, reader: ChunkReader, address: int, data: bytes) -> None:
        """Cache a decoded chunk, and drop the least recently used ones."""
        with self._lock:
            if (reader, address) not in self._chunks and len(data) <= _MAX_CACHED_BYTES:
                self._chunks[reader, address] = data
                self._size += len(data) + _ENTRY
            while self._size > _MAX_CACHED_BYTES:
                self._size -= len(self._chunks.popitem(last=False)[1]) + _ENTRY


@dataclass(frozen=True, slots=True, eq=False)
class ChunkReader:
    """Reads ranges of a chunked dataset's little-endian image.

    unit:    the bytes of an element. 1 for elements that are not numbers: their bytes form one more dimension.
    part:    the bytes of a number in an element; a complex element has two numbers.
    swapped: whether numbers are big-endian in the file.
    fill:    an element that was never written, as in the image; empty for zeros.
    """

    file: Hdf5File
    cache: Cache
    name: str
    space: Space
    layout: Chunked
    filters: tuple[Filter, ...]
    dtype: DType
    unit: int
    part: int
    swapped: bool
    fill: bytes

    def read_table(self) -> ChunkTable:
        """The index of the chunks. Raises CorruptFileError, LimitError."""
        return ChunkTable(self.file, self.name, self.layout, self.space, filtered=bool(self.filters))

    def __call__(self, start: int, stop: int) -> memoryview:
        unit, chunk = self.unit, self._shape_in_units(self.layout.shape)
        table = self.cache.table(self)

        def read_part(place: tuple[int, ...], within: list[int], size: tuple[int, ...]) -> Array:
            return self._part(table, place[: len(table.grid)], within, size, chunk)

        first, last = start // unit, -(-stop // unit)
        image = read_grid(self._shape_in_units(self.space.shape or ()), chunk, unit, first, last, read_part)
        return image.view("u1").data[start - first * unit : stop - first * unit]

    def _shape_in_units(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.unit == self.layout.itemsize else (*shape, self.layout.itemsize)

    def _part(
        self, table: ChunkTable, place: tuple[int, ...], within: list[int], size: tuple[int, ...],
        chunk: tuple[int, ...],
    ) -> Array:  # fmt: skip
        """A box of a chunk's elements, from `within` on, of this size; a single element if all are the fill value."""
        import numpy as np

        entry = table.chunk(place)
        if entry is None:
            return np.frombuffer(self.fill or bytes(self.unit), f"V{self.unit}", count=1)
        address, stored, mask = entry
        if not self._is_filtered(place, mask):
            if stored != self.layout.nbytes:
                raise self._damaged("has another size than the others")
            if stored > _SMALL:
                return self._in_place(address, within, size, chunk)
            whole = self._decode(self.file.read_data(address, stored), _ALL_SKIPPED)
        else:
            whole = self._decoded_chunk(address, stored, mask)
        cut: tuple[Any, ...] = tuple(slice(w, w + n) for w, n in zip(within, size, strict=True))
        return np.frombuffer(whole, f"V{self.unit}").reshape(chunk)[(*cut, ...)]

    def _decoded_chunk(self, address: int, stored: int, mask: int) -> bytes:
        """A decoded chunk, from the cache if it is there."""
        whole = self.cache.chunk(self, address)
        if whole is None:
            whole = self._decode(self.file.read_data(address, stored), mask)
            self.cache.keep(self, address, whole)
        return whole

    def _in_place(self, address: int, within: list[int], size: tuple[int, ...], chunk: tuple[int, ...]) -> Array:
        """A box of an unfiltered chunk's elements, without reading the rest of it."""
        import numpy as np

        strides, nbytes = contiguous_strides(chunk), self.layout.nbytes
        span = self.file.span(address, nbytes)
        storage = Storage(None, span, self.unit, nbytes // self.unit, self.dtype, self.swapped)
        offset = sum(w * s for w, s in zip(within, strides, strict=True))
        data = Gather(Placement(storage, offset, size, strides), self.dtype)(0, prod(size) * self.unit)
        return np.frombuffer(data, f"V{self.unit}").reshape(size)

    def _is_filtered(self, place: tuple[int, ...], mask: int) -> bool:
        """Whether any filter was applied to the chunk."""
        if self.layout.edges_are_raw and any(
            (i + 1) * c > n for i, c, n in zip(place, self.layout.shape, self.space.shape or (), strict=True)
        ):
            return False
        return any(not mask >> i & 1 for i in range(len(self.filters)))

    def _decode(self, data: bytes, mask: int) -> bytes:
        """The chunk before filters were applied, with little-endian numbers."""
        size = self.layout.nbytes
        if size > MAX_HDF5_CHUNK:
            raise LimitError(
                f"{self.name!r} has chunks of {size:,} bytes; compressed ones may have {MAX_HDF5_CHUNK:,}",
                hint="h5repack it, with smaller chunks",
            )
        for i in reversed(range(len(self.filters))):
            if not mask >> i & 1:
                match self.filters[i].number:
                    case FilterId.DEFLATE:
                        data = self._inflate(data, size + _CHECKSUM * len(self.filters))
                    case FilterId.SHUFFLE:
                        data = _unshuffle(data, self.filters[i].parameter)
                    case FilterId.FLETCHER32:
                        data = self._check_fletcher32(data)
        if len(data) != size:
            raise self._damaged(f"has {len(data):,} bytes, and should have {size:,}")
        return swap(data, self.part) if self.swapped else data

    def _inflate(self, data: bytes, most: int) -> bytes:
        if most > (len(data) + 1) * MAX_INFLATED_RATIO:
            raise self._damaged("claims to inflate beyond what deflate can")
        stream = zlib.decompressobj()
        try:
            inflated = stream.decompress(data, most)
            if not stream.eof:  # maybe only zlib's checksum is left
                inflated += stream.decompress(stream.unconsumed_tail, 1)
        except zlib.error as error:
            raise self._damaged("does not inflate") from error
        if not stream.eof:
            raise self._damaged("does not inflate to its end")
        return inflated

    def _check_fletcher32(self, data: bytes) -> bytes:
        """The chunk without its checksum. Very old libraries on little-endian machines wrote that byte-swapped."""
        body, recorded = data[:-_CHECKSUM], data[-_CHECKSUM:]
        if len(recorded) < _CHECKSUM:
            raise self._damaged("is shorter than its checksum")
        low, high = int.from_bytes(recorded[:2], "little"), int.from_bytes(recorded[2:], "little")
        swapped = [int.from_bytes(half.to_bytes(2, "little"), "big") % 65535 for half in (low, high)]
        if fletcher32(body) not in ((low % 65535, high % 65535), tuple(swapped)):
            raise self._damaged("fails its checksum")
        return body

    def _damaged(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self.name!r} is damaged: a chunk of it {what}")


def _unshuffle(data: bytes, size: int) -> bytes:
    """Elements from all first bytes, then all second bytes, and so on; an incomplete element is at the end as it is."""
    import numpy as np

    count = len(data) // size if size else 0
    if count < 2:
        return data
    planes = np.frombuffer(data, np.uint8, count * size).reshape(size, count)
    return planes.T.tobytes() + data[count * size :]


def swap(data: bytes, width: int) -> bytes:
    """Numbers of `width` bytes in the other byte order."""
    swapped = bytearray(len(data))
    for i in range(width):
        swapped[i::width] = data[width - 1 - i :: width]
    return bytes(swapped)
