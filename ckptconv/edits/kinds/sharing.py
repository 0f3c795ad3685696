"""Edits of names: rename, drop, tie, untie, and new tensors of zeros."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor
from ckptconv.edits.views import Zeros

if TYPE_CHECKING:
    from ckptconv.core.edit import Step
    from ckptconv.edits.kinds.change import Change


def rename(change: Change, step: Step) -> tuple[LazyTensor]:
    """The tensor, unchanged."""
    return (change.source(step),)


def drop(change: Change, step: Step) -> tuple[()]:
    """Nothing."""
    return ()


def tie(change: Change, step: Step) -> tuple[LazyTensor]:
    """The source's tensor, for the target too."""
    kept = change.source(step)
    other = change.tensors.get(step.targets[0], kept)
    if (other.info.dtype, other.info.shape) != (kept.info.dtype, kept.info.shape):
        raise change.fail("tensors of unlike types or shapes cannot be one", (*step.sources, *step.targets))
    return (kept if kept.alias is not None else replace(kept, alias=("tied", step.sources[0])),)


def untie(change: Change, step: Step) -> tuple[LazyTensor]:
    """The target's tensor, no longer tied to any other."""
    name = step.targets[0]
    return (replace(change.tensors[name], alias=("untied", name), placement=None),)


def zeros(change: Change, step: Step) -> tuple[LazyTensor]:
    """A tensor of the same type and shape whose elements are all 0."""
    like = change.source(step).info
    if like.dtype.kind in ("block", "quantized") or like.dtype is DType.F8_E8M0:
        raise change.fail(f"{like.dtype} has no 0 that is told by its bytes", step.sources)
    return (LazyTensor(like, Zeros()),)
