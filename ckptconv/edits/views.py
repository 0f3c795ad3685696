"""Views of tensors: reshaped, and where the tensor can be read with strides, permuted and sliced. Nothing is read."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.strided import contiguous_strides
from ckptconv.core.tensor import ByteSpan, LazyTensor, Placement, Storage, TensorInfo, in_file
from ckptconv.io.gather import Gather

if TYPE_CHECKING:
    from collections.abc import Sequence


class Zeros:
    """A reader whose bytes are all 0."""

    light = True

    def __call__(self, start: int, stop: int) -> memoryview:
        return memoryview(bytes(stop - start))


def reshaped(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """The same elements, in the same order, under another shape."""
    return replace(tensor, info=replace(tensor.info, shape=shape), placement=None, alias=None)


def permuted(tensor: LazyTensor, axes: Sequence[int]) -> LazyTensor | None:
    """The tensor transposed: dimension `i` of the result is ``axes[i]``. None if it cannot be read with strides."""
    place = _placement(tensor)
    if place is None:
        return None
    shape, strides = (tuple(row[axis] for axis in axes) for row in (place.shape, place.strides))
    return _placed(tensor, replace(place, shape=shape, strides=strides))


def sliced(tensor: LazyTensor, axis: int, start: int, stop: int) -> LazyTensor | None:
    """Indices [start, stop) of one dimension. None if the tensor cannot be read with strides."""
    shape = tensor.info.shape
    shape = (*shape[:axis], stop - start, *shape[axis + 1 :])
    span, dtype = tensor.span, tensor.info.dtype
    row = prod(shape[axis + 1 :])  # elements of one index
    whole_bytes = dtype.bits % 8 == 0 and row % dtype.block == 0
    if span is not None and whole_bytes and prod(tensor.info.shape[:axis]) == 1:
        info = TensorInfo.of(dtype, shape)  # the slice is one run of bytes, too
        part = ByteSpan(span.file, span.offset + dtype.nbytes(start * row), info.nbytes)
        return in_file(info, part, depends=tensor.depends)
    place = _placement(tensor)
    if place is None:
        return None
    return _placed(tensor, replace(place, shape=shape, offset=place.offset + start * place.strides[axis]))


def _placement(tensor: LazyTensor) -> Placement | None:
    """The tensor as a strided view of a storage in its file; None if it is none, or its elements are no whole bytes."""
    dtype, span = tensor.info.dtype, tensor.span
    if dtype.bits % 8 or dtype.kind == "block":
        return None
    if tensor.placement is not None:
        return tensor.placement if tensor.placement.shape == tensor.info.shape else None
    if span is None:
        return None
    storage = Storage((span.file, span.offset), span, dtype.bits // 8, tensor.info.numel, dtype)
    return Placement(storage, 0, tensor.info.shape, contiguous_strides(tensor.info.shape))


def _placed(tensor: LazyTensor, place: Placement) -> LazyTensor:
    dtype = tensor.info.dtype
    return LazyTensor(TensorInfo.of(dtype, place.shape), Gather(place, dtype), depends=tensor.depends, placement=place)
