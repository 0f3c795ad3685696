"""Restores the shapes that a GGUF records for its tensors: ComfyUI-GGUF stores convolutions as rows of whole blocks.

    comfy.gguf.orig_shape.NAME    the shape of the tensor NAME in the model, with as many elements as it has here

Blocks cannot have these shapes, as rows would end within a block. So a tensor gets its shape when it leaves the format
as floats. Source: ComfyUI-GGUF's tools/convert.py, and `get_orig_shape` in its loader.py.
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


def restore_shapes(made: Checkpoint, source: Checkpoint, origins: Mapping[str, tuple[str, ...]]) -> Checkpoint:
    """The checkpoint with the shapes that its source's metadata records; unchanged if it records none. Reads no tensor.

    origins: for each name in `made` that has changed, the names in the source.
    """
    metadata = source.root
    if not isinstance(metadata, dict) or not any(isinstance(key, str) and key.startswith(KEY) for key in metadata):
        return made
    tensors = dict(made)
    for name, tensor in made.items():
        source_names = origins.get(name, (name,))
        if len(source_names) != 1:
            continue
        shape = _recorded_shape(metadata.get(KEY + source_names[0]), tensor.info)
        if shape is not None:
            tensors[name] = reshaped(tensor, shape)
    count = sum(tensor is not made[name] for name, tensor in tensors.items())
    if not count:
        return made
    message = (
        f"{plural(count, 'tensor has', 'tensors have')} the shape that {KEY}NAME says, and not that of rows of blocks"
    )
    return made.with_tensors(tensors, (*made.findings, Finding("shapes", "info", "", message)))


def _recorded_shape(value: MetaNode, info: TensorInfo) -> tuple[int, ...] | None:
    """The recorded shape; None if it is not one, if it does not fit, or if the tensor has it already."""
    if not isinstance(value, list | tuple) or info.dtype.block > 1:
        return None
    sizes = tuple(size for size in value if isinstance(size, int) and type(size) is not bool and size > 0)
    fits = len(sizes) == len(value) and prod(sizes) == info.numel
    return sizes if fits and sizes != info.shape else None
