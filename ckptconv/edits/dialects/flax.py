"""Flax's modules.

    kernel [..., in, out] → weight [out, in, ...]    scale, embedding → weight    mean, var → running_mean, running_var

The heads of its attention, kernel [in, heads, width] and [heads, width, out], become one dimension; the collections
params and batch_stats are no part of a name. Kernels of transposed convolutions and of recurrent cells are not told
from others, and torch holds those another way. Sources: flax/linen/linear.py, attention.py; transformers'
modeling_flax_pytorch_utils.py (up to 4.x).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, outputs_first

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.change import Shape

_WORDS = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
_COLLECTIONS = ("params.", "batch_stats.")


def changes(tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object]) -> dict[str, Change]:
    """What becomes of each tensor."""
    shapes = {name: info.shape for name, info in tensors.items()}
    collected = all(name.startswith(_COLLECTIONS) for name in shapes)
    return {name: _of_flax(name, shape, shapes, collected=collected) for name, shape in shapes.items()}


def _of_flax(name: str, shape: Shape, shapes: Mapping[str, Shape], *, collected: bool) -> Change:
    module, _, word = name.rpartition(".")
    if collected:
        module = module.partition(".")[2]
    new = ".".join(part for part in (module, _WORDS.get(word, word)) if part)
    flat = _heads_joined(name, shapes)
    if word == "kernel":
        return Change.to(new, flat, outputs_first(len(flat or shape)))
    return Change.to(new, flat)


def _heads_joined(name: str, shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape without a dimension of heads, for the parts of Flax's attention; None for all others.

    A kernel of three dimensions may as well be a convolution's: it is attention's where query, key, value and out stand
    side by side and their shapes agree.
    """
    if "." not in name:
        return None
    *attention, part, word = name.split(".")
    kernels = [shapes.get(".".join((*attention, each, "kernel")), ()) for each in ("query", "key", "value", "out")]
    if [len(kernel) for kernel in kernels] != [3, 3, 3, 3]:
        return None
    query, key, value, out = kernels
    if query[1:] != key[1:] or value[1:] != out[:2]:
        return None
    shape = shapes[name]
    if part in ("query", "key", "value"):
        if word == "kernel":
            return (shape[0], prod(shape[1:]))
        return (prod(shape),) if word == "bias" else None
    return (prod(shape[:2]), shape[2]) if part == "out" and word == "kernel" else None
