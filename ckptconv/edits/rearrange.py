"""Transposes and slices any tensor: whether it lies in a file, or is joined, computed or reshaped while it is read.

If the tensor is joined or computed, its sources are transposed or sliced instead, so that they are read where they lie.
Any other tensor is read as if its bytes were a file, in ranges that `io.gather` chooses. No tensor is ever held whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.strided import contiguous_strides
from ckptconv.core.tensor import ByteSpan, LazyTensor, Placement, Storage, TensorInfo
from ckptconv.edits.cast import BlockReader
from ckptconv.edits.joined import Joined, joined
from ckptconv.edits.views import permuted, reshaped, sliced
from ckptconv.io.gather import Gather

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Image:
    """A tensor's bytes as a file (`core.tensor.SpanFile`)."""

    tensor: LazyTensor

    def read_at(self, offset: int, length: int) -> memoryview:
        """Bytes of the tensor."""
        return self.tensor.read(offset, offset + length)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with bytes of the tensor."""
        buffer[:] = self.tensor.read(offset, offset + len(buffer))


def transposed(tensor: LazyTensor, axes: Sequence[int]) -> LazyTensor | None:
    """The tensor transposed: dimension `i` of the result is ``axes[i]``. None if its elements are no whole bytes."""
    view = permuted(tensor, axes)
    match tensor.reader:
        case _ if view is not None:
            return _without_placement(view)
        case BlockReader() as reader:
            inner = transposed(reshaped(reader.source, tensor.info.shape), axes)
            return None if inner is None else reader.applied_to(inner)
        case Joined(tensors=tensors, axis=axis) as reader if reader.shape == tensor.info.shape:
            parts = [transposed(part, axes) for part in tensors]
            whole = [part for part in parts if part is not None]
            return joined(whole, list(axes).index(axis)) if len(whole) == len(parts) else None
    place = _placement(tensor)
    if place is None:
        return None
    shape, strides = (tuple(row[axis] for axis in axes) for row in (place.shape, place.strides))
    return _gathered(tensor, place, shape, strides, place.offset)


def cut(tensor: LazyTensor, axis: int, start: int, stop: int) -> LazyTensor | None:
    """Indices [start, stop) of one dimension. None if its elements are no whole bytes."""
    view = sliced(tensor, axis, start, stop)
    match tensor.reader:
        case _ if view is not None:
            return _without_placement(view)
        case BlockReader() as reader:
            inner = cut(reshaped(reader.source, tensor.info.shape), axis, start, stop)
            return None if inner is None else reader.applied_to(inner)
        case Joined(tensors=tensors, axis=along) as reader if reader.shape == tensor.info.shape:
            return _cut_joined(tensors, along, axis, start, stop)
    place = _placement(tensor)
    if place is None:
        return None
    shape = (*place.shape[:axis], stop - start, *place.shape[axis + 1 :])
    return _gathered(tensor, place, shape, place.strides, place.offset + start * place.strides[axis])


def _cut_joined(tensors: Sequence[LazyTensor], along: int, axis: int, start: int, stop: int) -> LazyTensor | None:
    parts: list[LazyTensor | None] = []
    at = 0
    for part in tensors:
        length = part.info.shape[along]
        if axis != along:
            parts.append(cut(part, axis, start, stop))
        else:
            low, high = max(start - at, 0), min(stop - at, length)
            if low < high or start == stop:
                parts.append(cut(part, axis, min(low, length), max(high, min(low, length))))
        at += length
    whole = [part for part in parts if part is not None]
    return joined(whole, along) if whole and len(whole) == len(parts) else None


def _without_placement(view: LazyTensor) -> LazyTensor:
    """The view as a tensor of its own: a writer then does not keep the storage that it is a view of."""
    return LazyTensor(view.info, view.reader, view.span, depends=view.depends)


def _placement(tensor: LazyTensor) -> Placement | None:
    """Where the elements lie: in the file, if the reader gathers them from there, else in the tensor's own bytes."""
    dtype, shape = tensor.info.dtype, tensor.info.shape
    if isinstance(tensor.reader, Gather) and tensor.reader.placement.shape == shape:
        return tensor.reader.placement
    if dtype.bits % 8 or dtype.kind == "block":
        return None
    span = ByteSpan(Image(tensor), 0, tensor.info.nbytes)
    storage = Storage((id(tensor), "image"), span, dtype.bits // 8, prod(shape), dtype)
    return Placement(storage, 0, shape, contiguous_strides(shape))


def _gathered(
    tensor: LazyTensor, place: Placement, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> LazyTensor:
    storage = place.storage
    moved = Placement(storage, offset, shape, strides, place.conj, place.neg)
    return LazyTensor(TensorInfo.of(tensor.info.dtype, shape), Gather(moved, tensor.info.dtype), depends=tensor.depends)
