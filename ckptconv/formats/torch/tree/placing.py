"""Finding the bytes that a pickled tensor views, in any container.

A container says where each storage is (`Records`); every number in the pickle is checked against that here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Protocol

from ckptconv.core.dtypes import COMPONENT
from ckptconv.core.strided import extent, is_contiguous
from ckptconv.core.tensor import ByteSpan, LazyTensor, Placement, SpanReader, Storage, TensorInfo
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats.torch.dtypes import PACKED
from ckptconv.formats.torch.values.composites import ValueStub
from ckptconv.formats.torch.values.stubs import StorageStub, TensorStub
from ckptconv.io.gather import Gather
from ckptconv.io.limits import MAX_DIM, MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from ckptconv.core.dtypes import DType
    from ckptconv.io.zip import ZipArchive


class Records(Protocol):
    """Where a container keeps its storages. `identity` is unique among open files."""

    @property
    def identity(self) -> Hashable: ...

    def span(self, key: str) -> ByteSpan:
        """The bytes of the storage `key`. Raises CorruptFileError if the container has no such storage."""


@dataclass(frozen=True, slots=True)
class ZipRecords:
    """Storages that are entries in a folder of a zip archive."""

    archive: ZipArchive
    folder: str
    identity: Hashable = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", (id(self.archive), self.folder))

    def span(self, key: str) -> ByteSpan:
        name = self.folder + key
        try:
            return self.archive.span(name)
        except KeyError as error:
            raise CorruptFileError(f"its storage {name!r} is not in the archive") from error


@dataclass(slots=True)
class StorageSlice(StorageStub):
    """A storage that is a part of another (`root`), from element `start` on; only in files before torch 1.6."""

    root: StorageStub
    start: int


@dataclass(slots=True)
class Placer:
    """Makes tensors from stubs. `swapped`: the elements of all storages are big-endian.

    If tensors of two element types view the same record, each type gets a storage of its own, on the same bytes.
    """

    records: Records
    swapped: bool = False
    storages: dict[tuple[str, DType], Storage] = field(default_factory=dict)

    def place(self, name: str, stub: TensorStub) -> LazyTensor:
        """The tensor for a stub. Costs one small read for each new storage. Raises CkptconvError with the name."""
        try:
            return self._place(stub)
        except CkptconvError as error:
            error.message = f"tensor {name!r}: {error.message}"
            error.args = (error.message,)
            raise

    def _place(self, stub: TensorStub) -> LazyTensor:
        if isinstance(stub, ValueStub):
            return stub.tensor(self.records.identity)
        dtype, shape, strides = stub.dtype, stub.shape, stub.strides
        view = _view(dtype, shape, strides)
        storage, offset = self._storage_of(stub, view.reach)
        placement = Placement(storage, offset, shape, strides, stub.conj, stub.neg)
        alias = (storage.key, offset, shape, strides, dtype, stub.conj, stub.neg)
        stored_as_is = not (stub.conj or stub.neg) and (
            not self.swapped or (storage.unit == 1 and dtype not in COMPONENT)
        )
        if not stored_as_is or not view.contiguous:
            return LazyTensor(view.info, Gather(placement, dtype), None, alias, (storage.span,), placement)
        span, nbytes = storage.span, view.info.nbytes
        if nbytes != span.length:
            span = ByteSpan(span.file, span.offset + offset * storage.unit * (nbytes > 0), nbytes)
        return LazyTensor(view.info, SpanReader(span), span, alias, (storage.span,), placement)

    def _storage_of(self, stub: TensorStub, reach: int) -> tuple[Storage, int]:
        """The storage that holds a tensor's elements, and the offset of the first one in it."""
        named = stub.storage
        if not isinstance(named, StorageSlice):
            storage = self._storage(named, stub.dtype)
            _check_reach(stub.offset, reach, storage.numel)
            return storage, stub.offset
        storage = self._storage(named.root, stub.dtype)
        if not 0 <= named.start <= storage.numel - named.numel:
            raise CorruptFileError(
                f"its storage is declared as elements {named.start:,} to {named.start + named.numel:,} of another, "
                f"which has {storage.numel:,}"
            )
        _check_reach(stub.offset, reach, named.numel)
        return storage, named.start + stub.offset

    def _storage(self, stub: StorageStub, dtype: DType) -> Storage:
        known = self.storages.get((stub.key, dtype))
        if known is not None:
            return known
        unit = max(1, dtype.bits // 8)
        span = self.records.span(stub.key)
        if span.length != stub.nbytes:
            raise CorruptFileError(f"its storage has {span.length:,} bytes, and the pickle says {stub.nbytes:,}")
        identity = (self.records.identity, stub.key, dtype)
        storage = Storage(identity, span, unit, span.length // unit, dtype, self.swapped)
        self.storages[stub.key, dtype] = storage
        return storage


def _check_reach(offset: int, reach: int, numel: int) -> None:
    if offset < 0 or (reach and offset + reach > numel):
        raise CorruptFileError(f"it reaches element {offset + reach:,} of a storage that has {numel:,}")


@dataclass(frozen=True, slots=True)
class _View:
    """What follows from dtype, shape and strides.

    info:       the tensor's header.
    reach:      elements from the first to the last, including those that the view skips.
    contiguous: whether the view is one run of elements.
    """

    info: TensorInfo
    reach: int
    contiguous: bool


@lru_cache(maxsize=4096)
def _view(dtype: DType, shape: tuple[int, ...], strides: tuple[int, ...]) -> _View:
    """Cached, because layers repeat their shapes. Raises CorruptFileError for numbers that no view can have, and
    UnsupportedError for a 0-d tensor of a packed type.
    """
    if len(shape) != len(strides) or len(shape) > MAX_RANK:
        raise CorruptFileError(f"{len(shape)} dimensions and {len(strides)} strides")
    if any(not 0 <= n <= MAX_DIM for n in (*shape, *strides)):
        raise CorruptFileError("a size or a stride is out of range")
    numel = prod(shape)
    if numel > MAX_DIM:
        raise CorruptFileError(f"the shape {list(shape)} has more elements than a file can")
    nbytes = numel * max(1, dtype.bits // 8)
    if nbytes > MAX_DIM:
        raise CorruptFileError(f"the shape {list(shape)} takes more bytes than a file can have")
    logical = shape
    if dtype in PACKED:
        if not shape:
            raise UnsupportedError(f"a 0-d tensor of packed {dtype} holds no single element", hint="reshape it to [1]")
        logical = (*shape[:-1], shape[-1] * PACKED[dtype])
    return _View(TensorInfo(dtype, logical, nbytes), extent(shape, strides), is_contiguous(shape, strides))


Place = Callable[[str, TensorStub], LazyTensor]


@dataclass(slots=True, eq=False)
class PlacedStub(TensorStub):
    """A stub for a tensor that is placed already."""

    tensor: LazyTensor = field(kw_only=True)


@dataclass(slots=True)
class Places:
    """Places the tensors of several pickles in one tree, each with its own pickle's placer. Storages are told apart by
    `id`, and kept alive for that.
    """

    found: dict[int, tuple[StorageStub, Place]] = field(default_factory=dict)

    def add(self, storages: Iterable[StorageStub], place: Place) -> None:
        """Use `place` for the tensors of these storages."""
        self.found |= {id(storage): (storage, place) for storage in storages}

    def place(self, name: str, stub: TensorStub) -> LazyTensor:
        """Like `Placer.place`. Raises CorruptFileError, UnsupportedError."""
        if isinstance(stub, PlacedStub):
            return stub.tensor
        return self.found[id(stub.storage)][1](name, stub)


def placed_stub(tensor: LazyTensor, shape: tuple[int, ...] | None = None) -> PlacedStub:
    """A stub for a tensor that is placed already. `shape` is torch's shape, if it differs from the tensor's."""
    info = tensor.info
    storage = StorageStub("", info.dtype, "cpu", info.numel)
    return PlacedStub(storage, info.dtype, 0, info.shape if shape is None else shape, (), tensor=tensor)
