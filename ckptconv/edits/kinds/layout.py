"""Edits that keep every value and arrange it differently: transposed, reshaped, split, joined. No tensor is read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.edits.joined import joined
from ckptconv.edits.rearrange import cut, transposed
from ckptconv.edits.views import reshaped
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.edit import Step
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.kinds.change import Change


def transpose(change: Change, step: Step) -> tuple[LazyTensor]:
    """The tensor with its dimensions in another order."""
    tensor = change.source(step)
    axes = change.axes(len(tensor.info.shape), step)
    return (replace(_require_view(step, transposed(tensor, axes)), alias=change.alias([tensor], axes)),)


def reshape(change: Change, step: Step) -> tuple[LazyTensor]:
    """The same elements in the same order under another shape."""
    tensor = change.source(step)
    shape = change.shape(tensor.info.numel, step)
    return (replace(reshaped(tensor, shape), alias=change.alias([tensor], shape)),)


def permute(change: Change, step: Step) -> tuple[LazyTensor]:
    """The tensor with one dimension viewed as several, these transposed, and merged again: as for rotary heads."""
    tensor = change.source(step)
    shape, axis = tensor.info.shape, change.axis(len(tensor.info.shape))
    sizes = change.shape(shape[axis], step)
    axes = change.axes(len(sizes), step)
    apart = reshaped(tensor, (*shape[:axis], *sizes, *shape[axis + 1 :]))
    after = range(axis + len(sizes), len(apart.info.shape))
    view = _require_view(step, transposed(apart, (*range(axis), *(axis + i for i in axes), *after)))
    return (replace(reshaped(view, shape), alias=change.alias([tensor], axis, sizes, axes)),)


def split(change: Change, step: Step) -> list[LazyTensor]:
    """The parts of a tensor along a dimension; for ``unstack``, its indices, without that dimension."""
    tensor = change.source(step)
    shape, axis = tensor.info.shape, change.axis(len(tensor.info.shape))
    sizes = _part_sizes(change, step, shape[axis])
    blocks = change.blocks(step, (shape[axis], *sizes))
    whole = tensor
    if blocks > 1:
        whole = reshaped(tensor, (*shape[:axis], blocks, shape[axis] // blocks, *shape[axis + 1 :]))
    parts, at = [], 0
    for size in sizes:
        part = _require_view(step, cut(whole, axis + (blocks > 1), at // blocks, (at + size) // blocks))
        own = () if change.edit.kind == "unstack" else (size,)
        part = reshaped(part, (*shape[:axis], *own, *shape[axis + 1 :]))
        parts.append(replace(part, alias=change.alias([tensor], axis, blocks, at, size)))
        at += size
    return parts


def _part_sizes(change: Change, step: Step, whole: int) -> tuple[int, ...]:
    """The length of each part along the axis."""
    count = len(step.targets)
    if change.edit.kind == "unstack":
        sizes: tuple[int, ...] = (1,) * count
    elif "sizes" in change.details:
        sizes = change.integers("sizes")
    elif whole % count:
        raise change.fail(f"{whole} cannot be split into {count} equal parts", step.sources)
    else:
        sizes = (whole // count,) * count
    if len(sizes) != count or sum(sizes) != whole or min(sizes) < 0:
        raise change.fail(f"parts of {list(sizes)} do not make {whole}", step.sources)
    return sizes


def concat(change: Change, step: Step) -> tuple[LazyTensor]:
    """The tensors joined along a dimension that they have."""
    tensors = change.sources(step)
    shape = tensors[0].info.shape
    axis = change.axis(len(shape))
    _check_same(change, step, [(*tensor.info.shape[:axis], *tensor.info.shape[axis + 1 :]) for tensor in tensors])
    sizes = [tensor.info.shape[axis] for tensor in tensors]
    if change.details.get("sizes", sizes) != sizes:
        raise change.fail(f"they are of lengths {sizes}, not {change.details['sizes']}", step.sources)
    blocks = change.blocks(step, sizes)
    if blocks == 1:
        result = joined(tensors, axis)
    else:
        apart = [
            reshaped(tensor, (*shape[:axis], blocks, size // blocks, *shape[axis + 1 :]))
            for tensor, size in zip(tensors, sizes, strict=True)
        ]
        result = reshaped(joined(apart, axis + 1), (*shape[:axis], sum(sizes), *shape[axis + 1 :]))
    return (replace(result, alias=change.alias(tensors, tensors[0].info.dtype.name, axis, blocks)),)


def stack(change: Change, step: Step) -> tuple[LazyTensor]:
    """The tensors, of the same shape, joined along a new dimension."""
    tensors = change.sources(step)
    shape = tensors[0].info.shape
    axis = change.axis(len(shape) + 1)
    _check_same(change, step, [tensor.info.shape for tensor in tensors])
    result = joined([reshaped(tensor, (*shape[:axis], 1, *shape[axis:])) for tensor in tensors], axis)
    return (replace(result, alias=change.alias(tensors, tensors[0].info.dtype.name, axis)),)


def _check_same(change: Change, step: Step, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise EditError unless the sources have the same element type and rank, and these shapes are the same."""
    kinds = {(tensor.info.dtype, len(tensor.info.shape)) for tensor in change.sources(step)}
    if len(kinds) > 1 or len(set(shapes)) > 1:
        raise change.fail("their types or shapes do not go together", step.sources)


def _require_view(step: Step, view: LazyTensor | None) -> LazyTensor:
    """The view. Raises UnsupportedError where there is none."""
    if view is None:
        raise UnsupportedError(
            f"{step.sources[0]!r} cannot be cut or turned: its elements are packed, several to a byte",
            hint="an edit of kind cast before this one gives them bytes of their own",
        )
    return view
