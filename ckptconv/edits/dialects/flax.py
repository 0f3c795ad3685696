"""Flax's modules.

    kernel [..., in, out] → weight [out, in, ...]    scale, embedding → weight    mean, var → running_mean, running_var

The heads of its attention, kernel [in, heads, width] and [heads, width, out], become one dimension; the collections
params and batch_stats are no part of a name. Kernels of transposed convolutions and of recurrent cells are not told
from others, and torch holds those another way. Sources: flax/linen/linear.py, attention.py; transformers'
modeling_flax_pytorch_utils.py (up to 4.x).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, outputs_first, without_heads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.change import Shape

_WORDS = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
_COLLECTIONS = ("params.", "batch_stats.")
_ATTENTION = ("query", "key", "value", "out")


def changes(tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object]) -> dict[str, Change]:
    """What becomes of each tensor."""
    paths = {tuple(name.split(".")): info.shape for name, info in tensors.items()}
    collected = all(name.startswith(_COLLECTIONS) for name in tensors)
    return {name: _of_flax(name, info.shape, paths, collected=collected) for name, info in tensors.items()}


def _of_flax(name: str, shape: Shape, paths: Mapping[tuple[str, ...], Shape], *, collected: bool) -> Change:
    module, _, word = name.rpartition(".")
    if collected:
        module = module.partition(".")[2]
    new = ".".join(part for part in (module, _WORDS.get(word, word)) if part)
    flat = without_heads(tuple(name.split(".")), shape, paths, _ATTENTION)
    if word == "kernel":
        return Change.to(new, flat, outputs_first(len(flat or shape)))
    return Change.to(new, flat)
