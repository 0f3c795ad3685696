"""Turning and cutting any tensor: one that lies in a file, or one that is joined, computed or reshaped on its way.

What was joined, cast or computed is taken apart again, so that its parts are read where they lie. Anything else is
read as if its image were a file, in ranges that `io.gather` chooses: no tensor is ever held whole.
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
    """A tensor's image as a file (`core.tensor.SpanFile`)."""

    tensor: LazyTensor

    def read_at(self, offset: int, length: int) -> memoryview:
        """Bytes of the image."""
        return self.tensor.read(offset, offset + length)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from the image."""
        buffer[:] = self.tensor.read(offset, offset + len(buffer))


def turned(tensor: LazyTensor, axes: Sequence[int]) -> LazyTensor | None:
    """Dimension `i` of the result is dimension ``axes[i]``. None where elements do not fill bytes."""
    view = permuted(tensor, axes)
    match tensor.reader:
        case _ if view is not None:
            return _alone(view)
        case BlockReader() as reader:
            inner = turned(reshaped(reader.source, tensor.info.shape), axes)
            return None if inner is None else reader.of(inner)
        case Joined(tensors=tensors, axis=axis) as reader if reader.shape == tensor.info.shape:
            parts = [turned(part, axes) for part in tensors]
            whole = [part for part in parts if part is not None]
            return joined(whole, list(axes).index(axis)) if len(whole) == len(parts) else None
    place = _place(tensor)
    if place is None:
        return None
    shape, strides = (tuple(row[axis] for axis in axes) for row in (place.shape, place.strides))
    return _gathered(tensor, place, shape, strides, place.offset)


def cut(tensor: LazyTensor, axis: int, start: int, stop: int) -> LazyTensor | None:
    """Indices [start, stop) of one dimension. None where elements do not fill bytes."""
    view = sliced(tensor, axis, start, stop)
    match tensor.reader:
        case _ if view is not None:
            return _alone(view)
        case BlockReader() as reader:
            inner = cut(reshaped(reader.source, tensor.info.shape), axis, start, stop)
            return None if inner is None else reader.of(inner)
        case Joined(tensors=tensors, axis=along) as reader if reader.shape == tensor.info.shape:
            return _cut_joined(tensors, along, axis, start, stop)
    place = _place(tensor)
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


def _alone(view: LazyTensor) -> LazyTensor:
    """The view as a tensor of its own: whoever writes it does not keep the storage that it is a view of."""
    return LazyTensor(view.info, view.reader, view.span, depends=view.depends)


def _place(tensor: LazyTensor) -> Placement | None:
    """Where its elements lie: in the file if its reader gathers them from there, else in its own image."""
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
