"""Turning and cutting tensors that were joined or cast before: what is done to the whole is done to its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.cast import CastReader, cast_tensor
from ckptconv.edits.joined import Joined, joined
from ckptconv.edits.views import permuted, sliced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.tensor import LazyTensor


def turned(tensor: LazyTensor, axes: Sequence[int]) -> LazyTensor | None:
    """Dimension `i` of the result is dimension ``axes[i]``. None where that cannot be read in ranges."""
    view = permuted(tensor, axes)
    match tensor.reader:
        case _ if view is not None:
            return view
        case CastReader(source=source, dtype=dtype):
            inner = turned(source, axes)
            return None if inner is None else cast_tensor(inner, dtype)
        case Joined(tensors=tensors, axis=axis) as reader if reader.shape == tensor.info.shape:
            parts = [turned(part, axes) for part in tensors]
            whole = [part for part in parts if part is not None]
            return joined(whole, list(axes).index(axis)) if len(whole) == len(parts) else None
    return None


def cut(tensor: LazyTensor, axis: int, start: int, stop: int) -> LazyTensor | None:
    """Indices [start, stop) of one dimension. None where that cannot be read in ranges."""
    view = sliced(tensor, axis, start, stop)
    match tensor.reader:
        case _ if view is not None:
            return view
        case CastReader(source=source, dtype=dtype):
            inner = cut(source, axis, start, stop)
            return None if inner is None else cast_tensor(inner, dtype)
        case Joined(tensors=tensors, axis=along) as reader if reader.shape == tensor.info.shape:
            parts, at = [], 0
            for part in tensors:
                length = part.info.shape[along]
                low, high = (max(start - at, 0), min(stop - at, length)) if axis == along else (start, stop)
                if low < high or (axis != along):
                    parts.append(cut(part, axis, low, high) if (low, high) != (0, length) or axis != along else part)
                at += length
            whole = [part for part in parts if part is not None]
            return joined(whole, along) if whole and len(whole) == len(parts) else None
    return None
