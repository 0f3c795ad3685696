"""Where the chunks of a dataset lie, for all six kinds of index.

A B-tree of version 1 has, for each chunk, its size u32, filter mask u32, and the index of its first element in every
dimension (u64, and one more for the bytes within an element); one of version 2 has the address, [size, mask], and the
chunk's coordinates in the grid of chunks. A single chunk has no index; with the implicit index, all chunks lie in one
row. The implicit index and the arrays number chunks in the grid of the dataset's maximum size; in an extensible array,
the unlimited dimension comes first.
"""

from __future__ import annotations

from array import array
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.strided import contiguous_strides
from ckptconv.errors import LimitError
from ckptconv.formats.hdf5.datasets.array_index import Entry, extensible_array, fixed_array
from ckptconv.formats.hdf5.datasets.storage import Index
from ckptconv.formats.hdf5.structures.btree import CHUNKS, btree1_entries, btree2_records
from ckptconv.formats.hdf5.structures.cursor import damaged
from ckptconv.io.limits import FREE_HDF5_CHUNKS, MAX_HDF5_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptconv.formats.hdf5.datasets.storage import Chunked, Space
    from ckptconv.formats.hdf5.structures.superblock import Hdf5File

_PLAIN_RECORD, _FILTERED_RECORD = 10, 11


class _Chunk(NamedTuple):
    """A chunk by its coordinates in the grid of chunks. `size` is that in the file; 0 if all chunks have the same."""

    place: tuple[int, ...]
    address: int
    size: int
    mask: int


class ChunkTable:
    """The address, size and filter mask of every chunk of a dataset."""

    def __init__(self, file: Hdf5File, name: str, layout: Chunked, space: Space, *, filtered: bool) -> None:
        """Read the index. Raises CorruptFileError, LimitError."""
        self.grid = tuple(-(-n // chunk) for n, chunk in zip(space.shape or (), layout.shape, strict=True))
        count = prod(self.grid)
        most = min(MAX_HDF5_CHUNKS, FREE_HDF5_CHUNKS + file.size // file.offsets)
        if count > most:
            raise LimitError(f"{name!r} has {count:,} chunks; the limit is {most:,}", hint="h5repack it")
        self._addresses = array("Q", bytes(8 * count))
        self._sizes = array("Q", bytes(8 * count))
        self._masks = array("I", bytes(4 * count))
        strides = contiguous_strides(self.grid)
        for place, address, size, mask in _Index(file, layout, space, filtered=filtered).chunks():
            if all(at < n for at, n in zip(place, self.grid, strict=True)):
                size = size or layout.nbytes
                if address + size > file.size or not address:
                    raise damaged(f"a chunk of {name!r} runs past the end of the file")
                at = sum(i * s for i, s in zip(place, strides, strict=True))
                if self._addresses[at]:
                    raise damaged(f"{name!r} has a chunk twice")
                self._addresses[at], self._sizes[at], self._masks[at] = address, size, mask

    def chunk(self, place: Sequence[int]) -> tuple[int, int, int] | None:
        """The address, size and filter mask of a chunk; None if it was never written."""
        at = 0
        for i, n in zip(place, self.grid, strict=True):
            at = at * n + i
        return (self._addresses[at], self._sizes[at], self._masks[at]) if self._addresses[at] else None


class _Index:
    def __init__(self, file: Hdf5File, layout: Chunked, space: Space, *, filtered: bool) -> None:
        self._file, self._layout, self._filtered = file, layout, filtered
        self._rank = len(layout.shape)
        largest = zip(space.largest, layout.shape, strict=True)
        self._largest_grid = [None if n is None else -(-n // chunk) for n, chunk in largest]

    def chunks(self) -> Iterator[_Chunk]:
        """The chunks that were written."""
        file, address, filtered = self._file, self._layout.address, self._filtered
        if address is None:
            return
        match self._layout.index:
            case Index.BTREE1:
                yield from self._btree1_chunks(address)
            case Index.SINGLE:
                size, mask = self._layout.single or (0, 0)
                yield _Chunk((0,) * self._rank, address, size, mask)
            case Index.IMPLICIT:
                yield from self._implicit_chunks(address)
            case Index.FIXED_ARRAY:
                yield from self._by_coordinates(fixed_array(file, address, filtered=filtered), None)
            case Index.EXTENSIBLE_ARRAY:
                grows = [axis for axis, n in enumerate(self._largest_grid) if n is None]
                if len(grows) != 1:
                    raise damaged("an array of chunks grows in other than one dimension")
                yield from self._by_coordinates(extensible_array(file, address, filtered=filtered), grows[0])
            case Index.BTREE2:
                yield from self._btree2_chunks(address)

    def _btree1_chunks(self, address: int) -> Iterator[_Chunk]:
        for key, chunk in btree1_entries(self._file, address, CHUNKS, 16 + 8 * self._rank):
            size, mask = key.uint(4), key.uint(4)
            place = []
            for n in self._layout.shape:
                at, rest = divmod(key.uint(8), n)
                if rest:
                    raise damaged("a chunk is not a multiple of chunks away from the first")
                place.append(at)
            if key.uint(8):
                raise damaged("a chunk starts within an element")
            yield _Chunk(tuple(place), chunk, size, mask)

    def _btree2_chunks(self, address: int) -> Iterator[_Chunk]:
        kind = _FILTERED_RECORD if self._filtered else _PLAIN_RECORD
        for record in btree2_records(self._file, address, kind):
            chunk, size, mask = record.address(), 0, 0
            if self._filtered:
                size, mask = record.uint(record.left - 4 - 8 * self._rank), record.uint(4)
            place = tuple(record.uint(8) for _ in range(self._rank))
            if chunk is not None:
                yield _Chunk(place, chunk, size, mask)

    def _implicit_chunks(self, address: int) -> Iterator[_Chunk]:
        count = prod(n or 0 for n in self._largest_grid)
        size = self._layout.nbytes
        if address + count * size > self._file.size:
            raise damaged("chunks run past the end of the file")
        yield from self._by_coordinates((Entry(i, address + i * size, 0, 0) for i in range(count)), None)

    def _by_coordinates(self, entries: Iterator[Entry], grows: int | None) -> Iterator[_Chunk]:
        """Chunks by number, as chunks by coordinates. `grows`: the unlimited axis, if there is one."""
        axes = list(range(self._rank))
        if grows is not None:
            axes = [grows, *(axis for axis in axes if axis != grows)]
        for number, address, size, mask in entries:
            place = [0] * self._rank
            for axis in reversed(axes[1:]):
                number, place[axis] = divmod(number, self._largest_grid[axis] or 1)
            if axes:
                place[axes[0]] = number
            yield _Chunk(tuple(place), address, size, mask)
