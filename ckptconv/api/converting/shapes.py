"""Shapes that a GGUF says its tensors had: ComfyUI-GGUF's converter writes convolutions as rows of whole blocks.

    comfy.gguf.orig_shape.NAME    the sizes that the tensor NAME has where it is used, as many elements as it has

Blocks cannot have them, whose rows would end within one: a tensor gets them as it leaves the format, as floats. Source:
ComfyUI-GGUF's tools/convert.py, and `get_orig_shape` in its loader.py.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import plural
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import TensorInfo

KEY = "comfy.gguf.orig_shape."


def with_shapes(made: Checkpoint, source: Checkpoint, origins: Mapping[str, tuple[str, ...]]) -> Checkpoint:
    """The checkpoint with the shapes that the metadata of its source says; itself where that says none. Reads nothing.

    origins: the names in the source, by those in `made`, of what is called otherwise.
    """
    said = source.root
    if not isinstance(said, dict) or not any(isinstance(key, str) and key.startswith(KEY) for key in said):
        return made
    tensors = dict(made)
    for name, tensor in made.items():
        olds = origins.get(name, (name,))
        shape = _shape(said.get(KEY + olds[0]), tensor.info) if len(olds) == 1 else None
        if shape is not None:
            tensors[name] = reshaped(tensor, shape)
    count = sum(tensor is not made[name] for name, tensor in tensors.items())
    if not count:
        return made
    message = (
        f"{plural(count, 'tensor has', 'tensors have')} the shape that {KEY}NAME says, and not that of rows of blocks"
    )
    return made.with_tensors(tensors, (*made.findings, Finding("shapes", "info", "", message)))


def _shape(said: MetaNode, info: TensorInfo) -> tuple[int, ...] | None:
    """Another shape than it has; None where nothing is said that fits."""
    if not isinstance(said, list | tuple) or info.dtype.block > 1:
        return None
    sizes = tuple(size for size in said if isinstance(size, int) and type(size) is not bool and size > 0)
    return sizes if len(sizes) == len(said) and prod(sizes) == info.numel and sizes != info.shape else None
