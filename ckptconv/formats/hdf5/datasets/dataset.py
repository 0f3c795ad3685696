"""A dataset as a tensor, or as a value if its elements are text."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, TypeVar, cast

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, RangeReader, TensorInfo, in_memory
from ckptconv.formats.hdf5.datasets.attributes import value_of
from ckptconv.formats.hdf5.datasets.chunks import Cache, ChunkReader, swap
from ckptconv.formats.hdf5.datasets.datatype import Element, Numbers, Other, Text, read_datatype
from ckptconv.formats.hdf5.datasets.storage import (
    Chunked,
    Compact,
    Contiguous,
    Filter,
    Layout,
    Space,
    Virtual,
    read_fill,
    read_filters,
    read_layout,
    read_space,
    unsupported_filter,
)
from ckptconv.formats.hdf5.structures import headers
from ckptconv.formats.hdf5.structures.cursor import Cursor, damaged
from ckptconv.io.gather import laid_out

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.hdf5.structures.headers import Header
    from ckptconv.formats.hdf5.structures.heaps import GlobalHeaps


T = TypeVar("T")

_MAX_CACHED = 1024
"""Parsed messages that are kept: the datasets of a file share few types and shapes."""


@dataclass(frozen=True, slots=True)
class Array:
    """A dataset of numbers. `was`: what its elements are in the file, if they are read as something else."""

    tensor: LazyTensor
    was: str


@dataclass(frozen=True, slots=True)
class Value:
    """A dataset of text, or one without elements."""

    value: MetaNode


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A dataset that cannot be read; `what` it is, in words."""

    what: str


Dataset = Array | Value | Unreadable


@dataclass(frozen=True, slots=True)
class _Description:
    """The parsed messages of a dataset's header. `fill` is in the byte order of the file."""

    name: str
    element: Element
    space: Space
    shape: tuple[int, ...]
    layout: Layout
    filters: tuple[Filter, ...]
    fill: bytes


class Datasets:
    """Makes tensors from object headers, without reading elements other than texts."""

    def __init__(self, heaps: GlobalHeaps) -> None:
        self._heaps = heaps
        self._cache = Cache()
        self._parsed: dict[tuple[Callable[[Cursor], object], bytes], object] = {}

    def read(self, header: Header, name: str, alias: Hashable) -> Dataset:
        """The dataset that an object header describes. Raises CorruptFileError, LimitError, UnsupportedError."""
        datatype = header.cursor(headers.DATATYPE, "a datatype")
        dataspace = header.cursor(headers.DATASPACE, "a dataspace")
        layout = header.cursor(headers.LAYOUT, "a data layout")
        if datatype is None or dataspace is None or layout is None:
            raise damaged(f"{name!r} is a dataset without a type, a shape or a place")
        element, space = self._cached(read_datatype, datatype), self._cached(read_space, dataspace)
        filters = read_filters(header.cursor(headers.FILTERS, "filters"))
        if space.shape is None:
            return Value(None)
        fill = read_fill(header.cursor(headers.FILL, "a fill value"), header.cursor(headers.OLD_FILL, "a fill value"))
        dataset = _Description(name, element, space, space.shape, read_layout(layout), filters, fill)
        if what := _why_unreadable(dataset, external=header.has(headers.EXTERNAL)):
            return Unreadable(what)
        _check_sizes(dataset)
        header.file.claim(name, prod(dataset.shape) * element.size)
        if isinstance(element, Text):
            return Value(self._text(header, dataset, element))
        assert isinstance(element, Numbers)
        return Array(self._tensor(header, dataset, element, alias), element.was)

    def _cached(self, read: Callable[[Cursor], T], cursor: Cursor) -> T:
        """The parsed message, from the cache if an equal dataset was read before."""
        start, data = cursor.at, cursor.take(cursor.left)
        parsed = self._parsed.get((read, data))
        if parsed is None:
            cursor.at = start
            if len(self._parsed) >= _MAX_CACHED:
                self._parsed.clear()
            parsed = self._parsed[read, data] = read(cursor)
        return cast("T", parsed)

    def _text(self, header: Header, dataset: _Description, element: Text) -> MetaNode:
        nbytes = prod(dataset.shape) * element.size
        self._heaps.count_text(nbytes)
        match dataset.layout:
            case Compact(data):
                raw = data
            case Contiguous(None):
                raw = bytes(nbytes)
            case Contiguous(int() as address):
                raw = header.file.read(address, nbytes)
            case _:
                raw = bytes(self._chunks(header, dataset, Numbers(DType.U8))(0, nbytes)) if nbytes else b""
        cursor = Cursor(raw, f"{dataset.name!r}", header.file.offsets, header.file.lengths)
        return value_of(element, dataset.shape, cursor, self._heaps)

    def _tensor(self, header: Header, dataset: _Description, element: Numbers, alias: Hashable) -> LazyTensor:
        info = TensorInfo.of(element.dtype, dataset.shape)
        fill = swap(dataset.fill, element.part) if element.swapped else dataset.fill
        if not info.nbytes:
            return in_memory(info, b"", alias)
        match dataset.layout:
            case Compact(data):
                return in_memory(info, swap(data[: info.nbytes], element.part) if element.swapped else data, alias)
            case Contiguous(None):
                return LazyTensor(info, Filled(fill or bytes(element.size)), None, alias)
            case Contiguous(int() as address):
                span = header.file.span(address, info.nbytes)
                return laid_out(info, span, alias, swapped=element.swapped)
            case _:
                return LazyTensor(info, self._chunks(header, dataset, element, fill), None, alias)

    def _chunks(self, header: Header, dataset: _Description, element: Numbers, fill: bytes = b"") -> RangeReader:
        assert isinstance(dataset.layout, Chunked)
        return ChunkReader(
            file=header.file,
            cache=self._cache,
            name=dataset.name,
            space=dataset.space,
            layout=dataset.layout,
            filters=dataset.filters,
            dtype=element.dtype,
            unit=element.size,
            part=element.part,
            swapped=element.swapped,
            fill=fill,
        )


def _why_unreadable(dataset: _Description, *, external: bool) -> str:
    """What makes the dataset unreadable, in words; "" if it can be read."""
    if external:
        return "in other files"
    if isinstance(dataset.layout, Virtual):
        return "made of other datasets (a virtual dataset)"
    if isinstance(dataset.element, Other):
        return f"of {dataset.element.what}"
    if name := unsupported_filter(dataset.filters):
        return f"compressed with {name}"
    return ""


def _check_sizes(dataset: _Description) -> None:
    """Raise CorruptFileError unless the dataset's messages agree on its size."""
    size, nbytes = dataset.element.size, prod(dataset.shape) * dataset.element.size
    if dataset.fill and len(dataset.fill) != size:
        raise damaged(f"the fill value of {dataset.name!r} has {len(dataset.fill)} bytes, and an element {size}")
    match dataset.layout:
        case Compact(data) if len(data) < nbytes:
            raise damaged(f"{dataset.name!r} has {len(data):,} bytes, and its type and shape ask for {nbytes:,}")
        case Contiguous(_, int() as stated) if stated != nbytes:
            raise damaged(f"{dataset.name!r} has {stated:,} bytes, and its type and shape ask for {nbytes:,}")
        case Chunked(shape=shape, itemsize=itemsize) if len(shape) != len(dataset.shape) or itemsize != size:
            raise damaged(f"the chunks of {dataset.name!r} are of another rank or type than it is")


@dataclass(frozen=True, slots=True)
class Filled:
    """Reads ranges of a dataset whose elements are all the fill value."""

    element: bytes
    light = True

    def __call__(self, start: int, stop: int) -> memoryview:
        size = len(self.element)
        first = start // size
        elements = self.element * (-(-stop // size) - first)
        return memoryview(elements)[start - first * size : stop - first * size]
