"""The messages of a dataset that say how large it is, and where and how its elements lie.

    dataspace   version 1: 1, rank, flags, 5 bytes;  version 2: 2, rank, flags, type (0 scalar, 1 simple, 2 none);
                then a size for each dimension, and where flags has 1 the largest that it may grow to
    layout      version 1, 2: rank, class, …;  3: class, …;  4, 5: class, …, the index of the chunks;
                class 0: the elements themselves; 1: address and size; 2: address of an index, sizes of a chunk;
                3: virtual, made of other datasets
    filters     what chunks went through, in order: id, flags, parameters
    fill value  that of elements which were never written

What else a layout says of its index stands in the index as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.hdf5.cursor import damaged
from ckptconv.io.limits import MAX_DIM, MAX_RANK

if TYPE_CHECKING:
    from ckptconv.formats.hdf5.cursor import Cursor


class Known(IntEnum):
    """Filters that are undone, by their registered number."""

    DEFLATE = 1
    SHUFFLE = 2
    FLETCHER32 = 3


_NAMES = {
    4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle",
    32013: "zfp", 32015: "zstd", 32026: "blosc2",
}  # fmt: skip
"""Filters that are not undone, by their registered number."""


class Index(IntEnum):
    """How chunks are found: the first before version 4 of the layout, the others by their number in it."""

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
"""Bytes in the layout that say again what the index says."""


_MOST_FILTERS = 32
"""What a chunk's mask of skipped filters has bits for."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter's registered number, and its first parameter."""

    number: int
    parameter: int


@dataclass(frozen=True, slots=True)
class Space:
    """Sizes of the dimensions (None: there is no element), and those that they may grow to (None: any)."""

    shape: tuple[int, ...] | None
    largest: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Inline:
    """Elements that stand in the message itself."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """Elements in one run; `address` is None where none was written. `size` is None where the layout does not say."""

    address: int | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Chunked:
    """Elements in chunks of one shape.

    address:  of the index, or of the only chunk; None where no chunk was written.
    shape:    elements of a chunk in each dimension.
    itemsize: bytes of an element.
    only:     of a single chunk that went through filters: its size and filter mask.
    edges_are_raw: whether chunks that stick out of the dataset went through no filters.
    """

    address: int | None
    shape: tuple[int, ...]
    itemsize: int
    index: Index
    only: tuple[int, int] | None = None
    edges_are_raw: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of a chunk."""
        return prod(self.shape) * self.itemsize


@dataclass(frozen=True, slots=True)
class Virtual:
    """Made of other datasets, mostly in other files."""


Layout = Inline | Run | Chunked | Virtual


def read_space(cursor: Cursor) -> Space:
    """A dataspace. Raises CorruptFileError, LimitError."""
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
    if any(most is not None and most < now for most, now in zip(largest, shape, strict=True)):
        raise damaged("a dataset is larger than it may grow to")
    return Space(shape, largest)


def read_layout(cursor: Cursor) -> Layout:
    """A data layout. Raises CorruptFileError."""
    version = cursor.expect(b"", 1, 2, 3, 4, 5)
    if version < 3:
        return _old_layout(cursor)
    match cursor.uint(1):
        case 0:
            return Inline(cursor.take(cursor.uint(2)))
        case 1:
            return Run(cursor.address(), cursor.length())
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
            return Inline(cursor.take(cursor.uint(4)))
        case 1:
            return Run(address, None)
        case 2:
            return _chunked(address, sizes, Index.BTREE1)
        case _:
            raise damaged(f"a dataset's layout is of class {kind}, which is not known")


def _new_chunks(cursor: Cursor) -> Chunked:
    flags, rank, width = cursor.uint(1), cursor.uint(1), cursor.uint(1)
    sizes = [cursor.uint(width) for _ in range(rank)]
    number, only = cursor.uint(1), None
    if number not in _INDEX_PARAMETERS:
        raise damaged(f"the chunks of a dataset are indexed in a way ({number}) that is not known")
    index = Index(number)
    cursor.skip(_INDEX_PARAMETERS[index])
    if index is Index.SINGLE and flags & 2:
        only = cursor.length(), cursor.uint(4)
    return _chunked(cursor.address(), sizes, index, only, edges_are_raw=bool(flags & 1))


def _chunked(
    address: int | None,
    sizes: list[int],
    index: Index,
    only: tuple[int, int] | None = None,
    *,
    edges_are_raw: bool = False,
) -> Chunked:
    if not sizes or 0 in sizes or prod(sizes) >= 1 << 63:
        raise damaged("the chunks of a dataset have no size")
    return Chunked(address, tuple(sizes[:-1]), sizes[-1], index, only, edges_are_raw)


def read_filters(cursor: Cursor | None) -> tuple[Filter, ...]:
    """The filters that chunks went through, in that order."""
    if cursor is None:
        return ()
    version, count = cursor.expect(b"", 1, 2), cursor.uint(1)
    if count > _MOST_FILTERS:
        raise damaged(f"a dataset went through {count} filters")
    cursor.skip(6 if version == 1 else 0)
    found = []
    for _ in range(count):
        number = cursor.uint(2)
        named = cursor.uint(2) if version == 1 or number >= 256 else 0
        cursor.skip(2)
        values = cursor.uint(2)
        cursor.skip(named + (-named % 8 if version == 1 else 0))
        parameters = cursor.part(4 * (values + (version == 1 and values % 2)), "a filter")
        found.append(Filter(number, parameters.uint(4) if values else 0))
    return tuple(found)


def unknown_filter(filters: tuple[Filter, ...]) -> str:
    """The name of the first filter that is not undone; "" where there is none."""
    for one in filters:
        if one.number not in tuple(Known):
            return _NAMES.get(one.number, f"number {one.number}")
    return ""


def read_fill(cursor: Cursor | None, old: Cursor | None) -> bytes:
    """The fill value as it lies in the file, of either message; empty where it is zero."""
    if cursor is None:
        return b"" if old is None else old.take(old.uint(4))
    version = cursor.expect(b"", 1, 2, 3)
    if version < 3:
        cursor.skip(2)
        return cursor.take(cursor.uint(4)) if cursor.uint(1) or version == 1 else b""
    return cursor.take(cursor.uint(4)) if cursor.uint(1) & 1 << 5 else b""
