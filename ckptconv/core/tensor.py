"""A tensor whose header is known and whose bytes have not been read.

``tensor.info.shape`` is free; ``tensor.read()`` does I/O. Every tensor, however it lies in its file (transposed,
expanded, big-endian), reads as *its image*: its elements in C order, little-endian, packed.

Nothing here changes once it is made. The classes of which a file may have a million objects are nevertheless not
`frozen`, since that would make their constructors four times as slow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

    import numpy as np
    import torch

    from ckptconv.core.dtypes import DType


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a tensor's header says.

    `shape` counts logical elements, even if several are packed into a byte. `nbytes` is the size of the image.
    """

    dtype: DType
    shape: tuple[int, ...]
    nbytes: int

    @classmethod
    def of(cls, dtype: DType, shape: tuple[int, ...]) -> TensorInfo:
        """The header of a tensor stored without gaps."""
        return cls(dtype, shape, dtype.nbytes(prod(shape)))

    @property
    def numel(self) -> int:
        """Number of elements; 1 for shape ``()``."""
        return prod(self.shape)


class SpanFile(Protocol):
    """An open file as `core` knows it: something that `io` can read from, equal only to itself."""

    def read_at(self, offset: int, length: int) -> memoryview:
        """Exactly `length` bytes at `offset`, in new memory."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`."""


@dataclass(slots=True, unsafe_hash=True)
class ByteSpan:
    """`length` bytes at `offset` of an open file, and the CRC-32 or CRC-32C recorded for them (None if there is none).

    `crc32` may be a function if finding it takes a read; `recorded_crc32` is the number either way.
    """

    file: SpanFile
    offset: int
    length: int
    crc32: int | Callable[[], int | None] | None = None
    crc32c: int | None = None

    @property
    def recorded_crc32(self) -> int | None:
        """The CRC-32; it is read from the file first if it has not been read yet."""
        return self.crc32() if callable(self.crc32) else self.crc32


@dataclass(slots=True, unsafe_hash=True)
class SpanReader:
    """Reads ranges of an image that is one contiguous run in its file."""

    span: ByteSpan

    def __call__(self, start: int, stop: int) -> memoryview:
        return self.span.file.read_at(self.span.offset + start, stop - start)


class RangeReader(Protocol):
    """Bytes ``[start, stop)`` of a tensor's image, in memory O(stop - start)."""

    def __call__(self, start: int, stop: int) -> memoryview: ...


@dataclass(slots=True, unsafe_hash=True)
class Storage:
    """A run of elements that one or more tensors are views of.

    `span` holds `numel` units of `unit` bytes, elements of `dtype`. `swapped` units are big-endian in the file.
    """

    key: Hashable
    span: ByteSpan
    unit: int
    numel: int
    dtype: DType
    swapped: bool = False


@dataclass(slots=True, unsafe_hash=True)
class Placement:
    """How a tensor lies in its storage; `offset` and `strides` count the storage's units.

    `shape` is the stored shape: the logical one, except for packed types, whose units hold several elements.
    `conj` and `neg`: the storage holds the conjugate, or the negative, of the values (torch's lazy views).
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conj: bool = False
    neg: bool = False


@dataclass(slots=True, unsafe_hash=True)
class LazyTensor:
    """A tensor that has not been read.

    info:      its header.
    reader:    reads any range of its image.
    span:      where its image lies in a file, if it is one contiguous run there; otherwise None.
    alias:     equal for tied tensors; None is equal to nothing.
    depends:   the file spans that its values come from, for checking their checksums.
    placement: its view of a storage, for writers that keep strides and shared storage.
    """

    info: TensorInfo
    reader: RangeReader
    span: ByteSpan | None = None
    alias: Hashable = None
    depends: tuple[ByteSpan, ...] = field(default=(), repr=False)
    placement: Placement | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"<LazyTensor {self.info.dtype.name} {list(self.info.shape)}, {self.info.nbytes} bytes>"

    def read(self, start: int = 0, stop: int | None = None) -> memoryview:
        """Bytes ``[start, stop)`` of the image: C order, little-endian, packed.

        Costs I/O for that range and memory O(stop - start), whatever the strides. Checksums are not checked.
        Raises IndexError outside ``0 <= start <= stop <= nbytes``.
        """
        stop = self.info.nbytes if stop is None else stop
        if not 0 <= start <= stop <= self.info.nbytes:
            raise IndexError(f"range [{start}, {stop}) of a tensor of {self.info.nbytes} bytes")
        return self.reader(start, stop) if start < stop else memoryview(b"")

    @property
    def light(self) -> bool:
        """Whether reading in small ranges costs no more than in large ones.

        True if the image is one contiguous run in its file, or if the reader has a true attribute `light`.
        """
        return self.span is not None or getattr(self.reader, "light", False)

    def identity(self, name: Hashable) -> Hashable:
        """Equal for tied tensors; an untied one is identified by its `name`."""
        return ("name", name) if self.alias is None else ("alias", self.alias)

    def numpy(self) -> np.ndarray:
        """The whole tensor as a numpy array, which may be read-only. Types that numpy lacks come from ml_dtypes."""
        from ckptconv.core.arrays import from_bytes

        return from_bytes(self.read(), self.info.dtype, self.info.shape)

    def elements(self, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) in C order as a flat numpy array, which may be read-only.

        Each element has to fill whole bytes.
        """
        from ckptconv.core.arrays import from_bytes

        size = self.info.dtype.bits // 8
        return from_bytes(self.read(start * size, stop * size), self.info.dtype, stop - start)

    def to_torch(self, device: str | torch.device = "cpu") -> torch.Tensor:
        """The whole tensor as a torch tensor on `device`. Raises UsageError if that device is not there."""
        from ckptconv.core.device import load_tensor

        return load_tensor(self, device)


def in_file(
    info: TensorInfo, span: ByteSpan, alias: Hashable = None, depends: tuple[ByteSpan, ...] | None = None
) -> LazyTensor:
    """A tensor whose image is a span of a file; it depends only on that span, unless `depends` says otherwise."""
    return LazyTensor(info, SpanReader(span), span, alias, (span,) if depends is None else depends)


def in_memory(info: TensorInfo, data: bytes, alias: Hashable = None) -> LazyTensor:
    """A small tensor whose image is `data`."""
    return LazyTensor(info, lambda start, stop: memoryview(data)[start:stop], alias=alias)


def infos_of(tensors: Mapping[str, LazyTensor]) -> dict[str, TensorInfo]:
    """The tensors' headers, under the same names."""
    return {name: tensor.info for name, tensor in tensors.items()}


def shapes_of(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes, under the same names."""
    return {name: tensor.info.shape for name, tensor in tensors.items()}


def depends_of(tensors: Iterable[LazyTensor]) -> tuple[ByteSpan, ...]:
    """The file spans that values computed from all these tensors come from, each once."""
    return tuple(dict.fromkeys(span for tensor in tensors for span in tensor.depends))
