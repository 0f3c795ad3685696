"""The messages of a dataset that say its shape, and where and how its elements are stored.

    dataspace   version 1: 1, rank, flags, 5 bytes;  version 2: 2, rank, flags, type (0 scalar, 1 simple, 2 none);
                then a size for each dimension, and if flags has 1 the maximum size for each
    layout      version 1, 2: rank, class, …;  3: class, …;  4, 5: class, …, the index of the chunks;
                class 0, compact: the elements themselves; 1, contiguous: address and size; 2, chunked: address of
                an index, sizes of a chunk; 3: virtual, made of other datasets
    filters     applied to chunks, in order: id, flags, parameters
    fill value  of elements that were never written

Whatever else a layout says about its index is also in the index, and is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.hdf5.structures.cursor import damaged
from ckptconv.io.limits import MAX_DIM, MAX_RANK

if TYPE_CHECKING:
    from ckptconv.formats.hdf5.structures.cursor import Cursor


class FilterId(IntEnum):
    """The supported filters, by registered number."""

    DEFLATE = 1
    SHUFFLE = 2
    FLETCHER32 = 3


_NAMES = {
    4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle",
    32013: "zfp", 32015: "zstd", 32026: "blosc2",
}  # fmt: skip
"""Filters that are not supported, by registered number."""


class Index(IntEnum):
    """The indexes of chunks. The first is for layouts before version 4, which number the others."""

    BTREE1 = 0
    SINGLE = 1
    IMPLICIT = 2
    FIXED_ARRAY = 3
    EXTENSIBLE_ARRAY = 4
    BTREE2 = 5


_INDEX_PARAMETERS = {
    Index.SINGLE: 0,
    Index.IMPLICIT: 0,
    Index.FIXED_ARRAY: 1,
    Index.EXTENSIBLE_ARRAY: 5,
    Index.BTREE2: 6,
}
"""Bytes in the layout that repeat what the index says."""

_MAX_FILTERS = 32
"""A chunk's mask of skipped filters has this many bits."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter's registered number and first parameter."""

    number: int
    parameter: int


@dataclass(frozen=True, slots=True)
class Space:
    """A dataspace.

    shape:   None if the dataset has no elements at all.
    largest: the maximum size of each dimension; None if there is no limit.
    """

    shape: tuple[int, ...] | None
    largest: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Compact:
    """Elements in the message itself."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Contiguous:
    """Elements in one piece. `address` is None if none was written, `size` if the layout does not state it."""

    address: int | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Chunked:
    """Elements in chunks of equal shape.

    address:  of the index, or of the only chunk; None if no chunk was written.
    shape:    of a chunk, in elements.
    itemsize: the bytes of an element.
    single:   the size and filter mask of the only chunk, if it is filtered.
    edges_are_raw: whether chunks that extend past the dataset's edge are unfiltered.
    """

    address: int | None
    shape: tuple[int, ...]
    itemsize: int
    index: Index
    single: tuple[int, int] | None = None
    edges_are_raw: bool = False

    @property
    def nbytes(self) -> int:
        """The bytes of an unfiltered chunk."""
        return prod(self.shape) * self.itemsize


@dataclass(frozen=True, slots=True)
class Virtual:
    """Made of other datasets, mostly in other files."""


Layout = Compact | Contiguous | Chunked | Virtual


def read_space(cursor: Cursor) -> Space:
    """Parse a dataspace message. Raises CorruptFileError, LimitError."""
    version = cursor.expect(b"", 1, 2)
    rank, flags, kind = cursor.uint(1), cursor.uint(1), cursor.uint(1)
    if version == 1:
        cursor.skip(4)
        kind = 1 if rank else 0
    if rank > MAX_RANK:
        raise LimitError(f"a dataset has {rank} dimensions; the limit is {MAX_RANK}")
    if kind == 2:
        return Space(None)
    if kind not in (0, 1) or (kind == 0 and rank):
        raise damaged(f"a dataspace is of type {kind}, which is not known")
    shape = tuple(cursor.length() for _ in range(rank))
    if prod(shape) > MAX_DIM or max(shape, default=0) > MAX_DIM:
        raise damaged("a dataset has more elements than a file can")
    if not flags & 1:
        return Space(shape, shape)
    unlimited = (1 << 8 * cursor.lengths) - 1
    largest = tuple(None if (n := cursor.length()) == unlimited else n for _ in range(rank))
    if any(limit is not None and limit < size for limit, size in zip(largest, shape, strict=True)):
        raise damaged("a dataset is larger than it may grow to")
    return Space(shape, largest)


def read_layout(cursor: Cursor) -> Layout:
    """Parse a data layout message. Raises CorruptFileError."""
    version = cursor.expect(b"", 1, 2, 3, 4, 5)
    if version < 3:
        return _old_layout(cursor)
    match cursor.uint(1):
        case 0:
            return Compact(cursor.take(cursor.uint(2)))
        case 1:
            return Contiguous(cursor.address(), cursor.length())
        case 2 if version == 3:
            rank, address = cursor.uint(1), cursor.address()
            return _chunked(address, [cursor.uint(4) for _ in range(rank)], Index.BTREE1)
        case 2:
            return _new_chunks(cursor)
        case 3:
            return Virtual()
        case kind:
            raise damaged(f"a dataset's layout is of class {kind}, which is not known")


def _old_layout(cursor: Cursor) -> Layout:
    rank, kind = cursor.uint(1), cursor.uint(1)
    cursor.skip(5)
    address = None if kind == 0 else cursor.address()
    sizes = [cursor.uint(4) for _ in range(rank)]
    match kind:
        case 0:
            return Compact(cursor.take(cursor.uint(4)))
        case 1:
            return Contiguous(address, None)
        case 2:
            return _chunked(address, sizes, Index.BTREE1)
        case _:
            raise damaged(f"a dataset's layout is of class {kind}, which is not known")


def _new_chunks(cursor: Cursor) -> Chunked:
    flags, rank, width = cursor.uint(1), cursor.uint(1), cursor.uint(1)
    sizes = [cursor.uint(width) for _ in range(rank)]
    number, single = cursor.uint(1), None
    if number not in _INDEX_PARAMETERS:
        raise damaged(f"the chunks of a dataset are indexed in a way ({number}) that is not known")
    index = Index(number)
    cursor.skip(_INDEX_PARAMETERS[index])
    if index is Index.SINGLE and flags & 2:
        single = cursor.length(), cursor.uint(4)
    return _chunked(cursor.address(), sizes, index, single, edges_are_raw=bool(flags & 1))


def _chunked(
    address: int | None,
    sizes: list[int],
    index: Index,
    single: tuple[int, int] | None = None,
    *,
    edges_are_raw: bool = False,
) -> Chunked:
    if not sizes or 0 in sizes or prod(sizes) >= 1 << 63:
        raise damaged("the chunks of a dataset have no size")
    return Chunked(address, tuple(sizes[:-1]), sizes[-1], index, single, edges_are_raw)


def read_filters(cursor: Cursor | None) -> tuple[Filter, ...]:
    """Parse a filters message: the filters that were applied to chunks, in that order."""
    if cursor is None:
        return ()
    version, count = cursor.expect(b"", 1, 2), cursor.uint(1)
    if count > _MAX_FILTERS:
        raise damaged(f"a dataset went through {count} filters")
    cursor.skip(6 if version == 1 else 0)
    filters = []
    for _ in range(count):
        number = cursor.uint(2)
        name_size = cursor.uint(2) if version == 1 or number >= 256 else 0
        cursor.skip(2)
        values = cursor.uint(2)
        cursor.skip(name_size + (-name_size % 8 if version == 1 else 0))
        parameters = cursor.part(4 * (values + (version == 1 and values % 2)), "a filter")
        filters.append(Filter(number, parameters.uint(4) if values else 0))
    return tuple(filters)


def unsupported_filter(filters: tuple[Filter, ...]) -> str:
    """The name of the first unsupported filter; "" if there is none."""
    for entry in filters:
        if entry.number not in tuple(FilterId):
            return _NAMES.get(entry.number, f"number {entry.number}")
    return ""


def read_fill(cursor: Cursor | None, old: Cursor | None) -> bytes:
    """The fill value from either message, in the byte order of the file; empty if it is zero."""
    if cursor is None:
        return b"" if old is None else old.take(old.uint(4))
    version = cursor.expect(b"", 1, 2, 3)
    if version < 3:
        cursor.skip(2)
        return cursor.take(cursor.uint(4)) if cursor.uint(1) or version == 1 else b""
    return cursor.take(cursor.uint(4)) if cursor.uint(1) & 1 << 5 else b""
