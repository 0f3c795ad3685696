"""Reading a dataset that lies in chunks, of which each may have gone through filters.

Chunks without filters are read in place, those with are undone one after the other, and the last few are kept. A chunk
is whole even where the dataset ends within it. Elements of chunks that were never written have the fill value.
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
from ckptconv.formats.hdf5.checksum import fletcher32
from ckptconv.formats.hdf5.chunk_index import ChunkTable
from ckptconv.formats.hdf5.storage import Known
from ckptconv.io.gather import Gather
from ckptconv.io.grid import read_grid
from ckptconv.io.limits import MAX_HDF5_CHUNK, MAX_INFLATED_RATIO

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType
    from ckptconv.formats.hdf5.storage import Chunked, Filter, Space
    from ckptconv.formats.hdf5.superblock import Hdf5File

_KEPT_BYTES = 32 << 20
_ENTRY = 256
"""Bytes that keeping a chunk takes beside its own, of which there may be few."""
_KEPT_TABLES = 4
_SMALL = 1 << 14
"""Bytes of a chunk that are read at once, where a part of it is asked for: finding out its place takes longer."""
_ALL_SKIPPED = -1
"""The mask of a chunk to which no filter was applied."""
_SUM = 4
"""Bytes of Fletcher's checksum behind a chunk."""


class Cache:
    """What was read last: the indexes of a few datasets, and chunks that were undone. For any thread."""

    def __init__(self) -> None:
        self._tables: OrderedDict[ChunkReader, ChunkTable] = OrderedDict()
        self._chunks: OrderedDict[tuple[ChunkReader, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def table(self, reader: ChunkReader) -> ChunkTable:
        """The index of a dataset, read where it is not known."""
        with self._lock:
            table = self._tables.get(reader)
            if table is None:
                table = self._tables[reader] = reader.read_table()
                if len(self._tables) > _KEPT_TABLES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(reader)
            return table

    def chunk(self, reader: ChunkReader, address: int) -> bytes | None:
        """An undone chunk."""
        key = reader, address
        with self._lock:
            data = self._chunks.get(key)
            if data is not None:
                self._chunks.move_to_end(key)
            return data

    def keep(self, reader: ChunkReader, address: int, data: bytes) -> None:
        """Keep an undone chunk, and forget the ones that were used the longest ago."""
        with self._lock:
            if (reader, address) not in self._chunks and len(data) <= _KEPT_BYTES:
                self._chunks[reader, address] = data
                self._size += len(data) + _ENTRY
            while self._size > _KEPT_BYTES:
                self._size -= len(self._chunks.popitem(last=False)[1]) + _ENTRY


@dataclass(frozen=True, slots=True, eq=False)
class ChunkReader:
    """Reads ranges of the image of a dataset in chunks.

    unit:    bytes of an element; 1 for other elements than numbers, whose bytes are then the last dimension.
    part:    bytes of the numbers that an element is made of, two of a complex one.
    swapped: whether these are big-endian in the file.
    fill:    an element that was never written, as in the image; empty where that is zeros.
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
        unit, chunk = self.unit, self._inner(self.layout.shape)
        table = self.cache.table(self)

        def part(place: tuple[int, ...], within: list[int], size: tuple[int, ...]) -> Array:
            return self._part(table, place[: len(table.grid)], within, size, chunk)

        first, last = start // unit, -(-stop // unit)
        image = read_grid(self._inner(self.space.shape or ()), chunk, unit, first, last, part)
        return image.view("u1").data[start - first * unit : stop - first * unit]

    def _inner(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.unit == self.layout.itemsize else (*shape, self.layout.itemsize)

    def _part(
        self, table: ChunkTable, place: tuple[int, ...], within: list[int], size: tuple[int, ...],
        chunk: tuple[int, ...],
    ) -> Array:  # fmt: skip
        """The elements of a chunk from `within` on, as many as `size` says; or one for all of them."""
        import numpy as np

        found = table.chunk(place)
        if found is None:
            return np.frombuffer(self.fill or bytes(self.unit), f"V{self.unit}", count=1)
        address, stored, mask = found
        if not self._is_filtered(place, mask):
            if stored != self.layout.nbytes:
                raise self._damaged("has another size than the others")
            if stored > _SMALL:
                return self._in_place(address, within, size, chunk)
            whole = self._undone(self.file.read_data(address, stored), _ALL_SKIPPED)
        else:
            whole = self._kept(address, stored, mask)
        cut: tuple[Any, ...] = tuple(slice(w, w + n) for w, n in zip(within, size, strict=True))
        return np.frombuffer(whole, f"V{self.unit}").reshape(chunk)[(*cut, ...)]

    def _kept(self, address: int, stored: int, mask: int) -> bytes:
        """A chunk after its filters were undone, now or a while ago."""
        whole = self.cache.chunk(self, address)
        if whole is None:
            whole = self._undone(self.file.read_data(address, stored), mask)
            self.cache.keep(self, address, whole)
        return whole

    def _in_place(self, address: int, within: list[int], size: tuple[int, ...], chunk: tuple[int, ...]) -> Array:
        """The elements of a chunk as it lies in the file."""
        import numpy as np

        strides, nbytes = contiguous_strides(chunk), self.layout.nbytes
        span = self.file.span(address, nbytes)
        storage = Storage(None, span, self.unit, nbytes // self.unit, self.dtype, self.swapped)
        offset = sum(w * s for w, s in zip(within, strides, strict=True))
        data = Gather(Placement(storage, offset, size, strides), self.dtype)(0, prod(size) * self.unit)
        return np.frombuffer(data, f"V{self.unit}").reshape(size)

    def _is_filtered(self, place: tuple[int, ...], mask: int) -> bool:
        """Whether some filter was applied to the chunk."""
        if self.layout.edges_are_raw and any(
            (i + 1) * c > n for i, c, n in zip(place, self.layout.shape, self.space.shape or (), strict=True)
        ):
            return False
        return any(not mask >> i & 1 for i in range(len(self.filters)))

    def _undone(self, data: bytes, mask: int) -> bytes:
        """A chunk as it was before the filters, its numbers little-endian."""
        size = self.layout.nbytes
        if size > MAX_HDF5_CHUNK:
            raise LimitError(
                f"{self.name!r} has chunks of {size:,} bytes; compressed ones may have {MAX_HDF5_CHUNK:,}",
                hint="h5repack it, with smaller chunks",
            )
        for i in reversed(range(len(self.filters))):
            if not mask >> i & 1:
                match self.filters[i].number:
                    case Known.DEFLATE:
                        data = self._inflated(data, size + _SUM * len(self.filters))
                    case Known.SHUFFLE:
                        data = _unshuffled(data, self.filters[i].parameter)
                    case Known.FLETCHER32:
                        data = self._summed(data)
        if len(data) != size:
            raise self._damaged(f"has {len(data):,} bytes, and should have {size:,}")
        return swap(data, self.part) if self.swapped else data

    def _inflated(self, data: bytes, most: int) -> bytes:
        if most > (len(data) + 1) * MAX_INFLATED_RATIO:
            raise self._damaged("claims to inflate beyond what deflate can")
        stream = zlib.decompressobj()
        try:
            found = stream.decompress(data, most)
            if not stream.eof:  # the end may be nothing but the checksum
                found += stream.decompress(stream.unconsumed_tail, 1)
        except zlib.error as error:
            raise self._damaged("does not inflate") from error
        if not stream.eof:
            raise self._damaged("does not inflate to its end")
        return found

    def _summed(self, data: bytes) -> bytes:
        """A chunk without its checksum, which also very old libraries on little-endian machines got their own way."""
        body, recorded = data[:-_SUM], data[-_SUM:]
        if len(recorded) < _SUM:
            raise self._damaged("is shorter than its checksum")
        found = fletcher32(body)
        low, high = int.from_bytes(recorded[:2], "little"), int.from_bytes(recorded[2:], "little")
        turned = [int.from_bytes(half.to_bytes(2, "little"), "big") % 65535 for half in (low, high)]
        if found not in ((low % 65535, high % 65535), tuple(turned)):
            raise self._damaged("fails its checksum")
        return body

    def _damaged(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self.name!r} is damaged: a chunk of it {what}")


def _unshuffled(data: bytes, size: int) -> bytes:
    """Elements from their first bytes, their second bytes and so on; what is not a whole element stands at the end."""
    import numpy as np

    count = len(data) // size if size else 0
    if count < 2:
        return data
    planes = np.frombuffer(data, np.uint8, count * size).reshape(size, count)
    return planes.T.tobytes() + data[count * size :]


def swap(data: bytes, width: int) -> bytes:
    """Numbers of `width` bytes, in the other byte order."""
    found = bytearray(len(data))
    for i in range(width):
        found[i::width] = data[width - 1 - i :: width]
    return bytes(found)
