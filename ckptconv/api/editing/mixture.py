"""The facts that llama.cpp's type mixtures depend on, from a GGUF's metadata or a transformers configuration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.gguf_config import GROUPS, HEADS, architecture, text_config, whole_number, written_as
from ckptconv.edits.dialects.gguf_table import is_gguf_adapter
from ckptconv.edits.ggml.mixtures import Model
from ckptconv.errors import EditError, UsageError
from ckptconv.formats.gguf.filetype import ARCHITECTURE_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import LazyTensor

_BLOCK = re.compile(r"(?:enc\.)?blk\.(\d+)\.")
_EXPERTS = re.compile(r".*_exps\.weight")


def mixture_model(tensors: Mapping[str, LazyTensor], stated: Mapping[object, object], *, to_gguf: bool) -> Model:
    """The facts about a model whose tensors have llama.cpp's names.

    stated: the metadata of a GGUF; with `to_gguf`, a transformers configuration.

    Raises EditError if it is not a llama.cpp model, UsageError if it is an adapter.
    """
    if is_gguf_adapter(stated):
        raise adapter_mixture_error()
    blocks = [int(match[1]) for name in tensors if (match := _BLOCK.match(name))]
    arch = stated.get(ARCHITECTURE_KEY)
    if to_gguf:
        config = text_config(stated)
        arch = written_as(architecture(config), config)
        heads, groups = whole_number(config, HEADS), whole_number(config, GROUPS)
    elif isinstance(arch, str) and blocks:
        heads = _of_first_block(stated.get(f"{arch}.attention.head_count"))
        groups = _of_first_block(stated.get(f"{arch}.attention.head_count_kv"))
    else:
        raise EditError(
            "a mixture of types is for a llama.cpp model, and these are not its tensor names",
            hint="--translate to-gguf makes one from a transformers folder; otherwise give a single type, such as Q8_0",
        )
    layers = stated.get(f"{arch}.block_count")
    shapes = [tensor.info.shape for name, tensor in tensors.items() if _EXPERTS.fullmatch(name)]
    stacks = [shape for shape in shapes if len(shape) > 2]
    return Model(
        str(arch),
        layers if type(layers) is int else max(blocks, default=-1) + 1,
        stacks[0][0] if stacks else 0,
        heads // groups if heads and groups else 1,
    )


def adapter_mixture_error() -> UsageError:
    """The error if a mixture is asked for an adapter."""
    return UsageError(
        "--dtype: a mixture of types is for a whole model, and not for an adapter",
        hint="a --dtype that is one type, as F16 or Q8_0",
    )


def _of_first_block(value: object) -> int | None:
    """The number, or that of the first block if each block has its own."""
    first = value[0] if isinstance(value, list) and value else value
    return first if type(first) is int else None
