"""Where the chunks of a dataset lie, whichever of the six indexes says it.

A B-tree of version 1 has, for each chunk, its size u32, its filter mask u32 and its first element's index in every
dimension (u64, and one for the bytes of an element); one of version 2 the address, [size, mask], and the chunk's place
in the grid of chunks. A single chunk has no index. An implicit one has all chunks in a row. The arrays, and the
implicit index, count chunks in the grid of the largest dataset that there may be; in an extensible array the dimension
that may grow without end comes first.
"""

from __future__ import annotations

from array import array
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.strided import contiguous_strides
from ckptconv.errors import LimitError
from ckptconv.formats.hdf5 import array_index
from ckptconv.formats.hdf5.btree import CHUNKS, entries1, records2
from ckptconv.formats.hdf5.cursor import damaged
from ckptconv.formats.hdf5.storage import Index
from ckptconv.io.limits import FREE_HDF5_CHUNKS, MAX_HDF5_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptconv.formats.hdf5.storage import Chunked, Space
    from ckptconv.formats.hdf5.superblock import Hdf5File

_PLAIN_RECORD, _FILTERED_RECORD = 10, 11
_Placed = tuple[tuple[int, ...], int, int, int]


class ChunkTable:
    """The address, size and filter mask of every chunk, by its place in the grid of chunks in C order."""

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
        """Address, size and filter mask of a chunk; None where it was never written."""
        at = 0
        for i, n in zip(place, self.grid, strict=True):
            at = at * n + i
        return (self._addresses[at], self._sizes[at], self._masks[at]) if self._addresses[at] else None


class _Index:
    def __init__(self, file: Hdf5File, layout: Chunked, space: Space, *, filtered: bool) -> None:
        self._file, self._layout, self._filtered = file, layout, filtered
        self._rank = len(layout.shape)
        largest = zip(space.largest, layout.shape, strict=True)
        self._down = [None if n is None else -(-n // chunk) for n, chunk in largest]

    def chunks(self) -> Iterator[_Placed]:
        file, address, filtered = self._file, self._layout.address, self._filtered
        if address is None:
            return
        match self._layout.index:
            case Index.BTREE1:
                yield from self._tree1(address)
            case Index.SINGLE:
                size, mask = self._layout.only or (0, 0)
                yield (0,) * self._rank, address, size, mask
            case Index.IMPLICIT:
                yield from self._row(address)
            case Index.FIXED_ARRAY:
                yield from self._numbered(array_index.fixed(file, address, filtered=filtered), None)
            case Index.EXTENSIBLE_ARRAY:
                grows = [axis for axis, n in enumerate(self._down) if n is None]
                if len(grows) != 1:
                    raise damaged("an array of chunks grows in other than one dimension")
                yield from self._numbered(array_index.extensible(file, address, filtered=filtered), grows[0])
            case Index.BTREE2:
                yield from self._tree2(address)

    def _tree1(self, address: int) -> Iterator[_Placed]:
        for key, chunk in entries1(self._file, address, CHUNKS, 16 + 8 * self._rank):
            size, mask = key.uint(4), key.uint(4)
            place = []
            for n in self._layout.shape:
                at, rest = divmod(key.uint(8), n)
                if rest:
                    raise damaged("a chunk is not a multiple of chunks away from the first")
                place.append(at)
            if key.uint(8):
                raise damaged("a chunk starts within an element")
            yield tuple(place), chunk, size, mask

    def _tree2(self, address: int) -> Iterator[_Placed]:
        kind = _FILTERED_RECORD if self._filtered else _PLAIN_RECORD
        for record in records2(self._file, address, kind):
            chunk, size, mask = record.address(), 0, 0
            if self._filtered:
                size, mask = record.uint(record.left - 4 - 8 * self._rank), record.uint(4)
            place = tuple(record.uint(8) for _ in range(self._rank))
            if chunk is not None:
                yield place, chunk, size, mask

    def _row(self, address: int) -> Iterator[_Placed]:
        count = prod(n or 0 for n in self._down)
        size = self._layout.nbytes
        if address + count * size > self._file.size:
            raise damaged("chunks run past the end of the file")
        yield from self._numbered(((i, address + i * size, 0, 0) for i in range(count)), None)

    def _numbered(self, found: Iterator[array_index.Found], grows: int | None) -> Iterator[_Placed]:
        axes = list(range(self._rank))
        if grows is not None:
            axes = [grows, *(axis for axis in axes if axis != grows)]
        for number, address, size, mask in found:
            place = [0] * self._rank
            for axis in reversed(axes[1:]):
                number, place[axis] = divmod(number, self._down[axis] or 1)
            if axes:
                place[axes[0]] = number
            yield tuple(place), address, size, mask
