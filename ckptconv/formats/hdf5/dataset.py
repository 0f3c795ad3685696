"""A dataset as a tensor, or as the value that it is where its elements are text."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, TypeVar, cast

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, RangeReader, TensorInfo, in_memory
from ckptconv.formats.hdf5 import headers
from ckptconv.formats.hdf5.attributes import value_of
from ckptconv.formats.hdf5.chunks import Cache, ChunkReader, swap
from ckptconv.formats.hdf5.cursor import Cursor, damaged
from ckptconv.formats.hdf5.datatype import Element, Numbers, Other, Text, read_datatype
from ckptconv.formats.hdf5.storage import (
    Chunked,
    Filter,
    Inline,
    Layout,
    Run,
    Space,
    Virtual,
    read_fill,
    read_filters,
    read_layout,
    read_space,
    unknown_filter,
)
from ckptconv.io.gather import laid_out

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.hdf5.headers import Header
    from ckptconv.formats.hdf5.heaps import GlobalHeaps


T = TypeVar("T")

_MOST_KEPT = 1024
"""Messages of datasets that are known: types and shapes, of which a file has few."""


@dataclass(frozen=True, slots=True)
class Array:
    """A dataset of numbers. `was`: what its elements were where they are read as something else."""

    tensor: LazyTensor
    was: str


@dataclass(frozen=True, slots=True)
class Words:
    """A dataset of text, or an empty one: its value."""

    value: MetaNode


@dataclass(frozen=True, slots=True)
class Unread:
    """A dataset that cannot be read, in words: what it is."""

    what: str


@dataclass(frozen=True, slots=True)
class _Described:
    """What the header of a dataset says. `fill` is as it lies in the file."""

    name: str
    element: Element
    space: Space
    shape: tuple[int, ...]
    layout: Layout
    filters: tuple[Filter, ...]
    fill: bytes


class Datasets:
    """Makes tensors of headers; no element is read but texts."""

    def __init__(self, heaps: GlobalHeaps) -> None:
        self._heaps = heaps
        self._cache = Cache()
        self._said: dict[tuple[Callable[[Cursor], object], bytes], object] = {}

    def read(self, header: Header, name: str, alias: Hashable) -> Array | Words | Unread:
        """The dataset of a header. Raises CorruptFileError, LimitError, UnsupportedError."""
        datatype, space, layout = (
            header.one(kind, what)
            for kind, what in (
                (headers.DATATYPE, "a datatype"), (headers.DATASPACE, "a dataspace"), (headers.LAYOUT, "a data layout")
            )
        )  # fmt: skip
        if datatype is None or space is None or layout is None:
            raise damaged(f"{name!r} is a dataset without a type, a shape or a place")
        element, found = self._known(read_datatype, datatype), self._known(read_space, space)
        filters = read_filters(header.one(headers.FILTERS, "filters"))
        if found.shape is None:
            return Words(None)
        fill = read_fill(header.one(headers.FILL, "a fill value"), header.one(headers.OLD_FILL, "a fill value"))
        one = _Described(name, element, found, found.shape, read_layout(layout), filters, fill)
        if what := _refused(one, external=header.has(headers.EXTERNAL)):
            return Unread(what)
        _check(one)
        header.file.claim(name, prod(one.shape) * element.size)
        if isinstance(element, Text):
            return Words(self._text(header, one, element))
        assert isinstance(element, Numbers)
        return Array(self._tensor(header, one, element, alias), element.was)

    def _known(self, read: Callable[[Cursor], T], cursor: Cursor) -> T:
        """What a message says: most datasets of a file say the same."""
        start, text = cursor.at, cursor.take(cursor.left)
        found = self._said.get((read, text))
        if found is None:
            cursor.at = start
            if len(self._said) >= _MOST_KEPT:
                self._said.clear()
            found = self._said[read, text] = read(cursor)
        return cast("T", found)

    def _text(self, header: Header, one: _Described, element: Text) -> MetaNode:
        nbytes = prod(one.shape) * element.size
        self._heaps.take(nbytes)
        match one.layout:
            case Inline(data):
                raw = data
            case Run(None):
                raw = bytes(nbytes)
            case Run(int() as address):
                raw = header.file.read(address, nbytes)
            case _:
                raw = bytes(self._chunks(header, one, Numbers(DType.U8))(0, nbytes)) if nbytes else b""
        cursor = Cursor(raw, f"{one.name!r}", header.file.offsets, header.file.lengths)
        return value_of(element, one.shape, cursor, self._heaps)

    def _tensor(self, header: Header, one: _Described, element: Numbers, alias: Hashable) -> LazyTensor:
        info = TensorInfo.of(element.dtype, one.shape)
        fill = swap(one.fill, element.part) if element.swapped else one.fill
        if not info.nbytes:
            return in_memory(info, b"", alias)
        match one.layout:
            case Inline(data):
                return in_memory(info, swap(data[: info.nbytes], element.part) if element.swapped else data, alias)
            case Run(None):
                return LazyTensor(info, Filled(fill or bytes(element.size)), None, alias)
            case Run(int() as address):
                span = header.file.span(address, info.nbytes)
                return laid_out(info, span, alias, swapped=element.swapped)
            case _:
                return LazyTensor(info, self._chunks(header, one, element, fill), None, alias)

    def _chunks(self, header: Header, one: _Described, element: Numbers, fill: bytes = b"") -> RangeReader:
        assert isinstance(one.layout, Chunked)
        return ChunkReader(
            header.file, self._cache, one.name, one.space, one.layout, one.filters, element.dtype, element.size,
            element.part, element.swapped, fill,
        )  # fmt: skip


def _refused(one: _Described, *, external: bool) -> str:
    """In words, why the dataset cannot be read; "" where it can."""
    if external:
        return "in other files"
    if isinstance(one.layout, Virtual):
        return "made of other datasets (a virtual dataset)"
    if isinstance(one.element, Other):
        return f"of {one.element.what}"
    if name := unknown_filter(one.filters):
        return f"compressed with {name}"
    return ""


def _check(one: _Described) -> None:
    """Compare what the messages say with each other. Raises CorruptFileError."""
    size, nbytes = one.element.size, prod(one.shape) * one.element.size
    if one.fill and len(one.fill) != size:
        raise damaged(f"the fill value of {one.name!r} has {len(one.fill)} bytes, and an element {size}")
    match one.layout:
        case Inline(data) if len(data) < nbytes:
            raise damaged(f"{one.name!r} has {len(data):,} bytes, and its type and shape ask for {nbytes:,}")
        case Run(_, int() as given) if given != nbytes:
            raise damaged(f"{one.name!r} has {given:,} bytes, and its type and shape ask for {nbytes:,}")
        case Chunked(shape=shape, itemsize=itemsize) if len(shape) != len(one.shape) or itemsize != size:
            raise damaged(f"the chunks of {one.name!r} are of another rank or type than it is")


@dataclass(frozen=True, slots=True)
class Filled:
    """Reads ranges of an image that is one element over and over."""

    element: bytes
    light = True

    def __call__(self, start: int, stop: int) -> memoryview:
        size = len(self.element)
        first = start // size
        many = self.element * (-(-stop // size) - first)
        return memoryview(many)[start - first * size : stop - first * size]
