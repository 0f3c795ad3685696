"""What a mixture of llama.cpp's asks of a model: the numbers in a GGUF's metadata, or in a configuration on its way."""

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


def model_of(tensors: Mapping[str, LazyTensor], said: Mapping[object, object], *, to_gguf: bool) -> Model:
    """What the tensors, under llama.cpp's names, and what is `said` of them tell: the metadata of a GGUF, or with
    `to_gguf` a configuration of transformers'. Raises EditError where that is not a model of llama.cpp's, UsageError
    where it is an adapter.
    """
    if is_gguf_adapter(said):
        raise not_of_adapters()
    blocks = [int(found[1]) for name in tensors if (found := _BLOCK.match(name))]
    arch = said.get(ARCHITECTURE_KEY)
    if to_gguf:
        config = text_config(said)
        arch = written_as(architecture(config), config)
        heads, groups = whole_number(config, HEADS), whole_number(config, GROUPS)
    elif isinstance(arch, str) and blocks:
        heads, groups = (_first(said.get(f"{arch}.attention.head_count{end}")) for end in ("", "_kv"))
    else:
        raise EditError(
            "a mixture of types is for a llama.cpp model, and these are not its tensor names",
            hint="--translate to-gguf makes one from a transformers folder; otherwise give a single type, such as Q8_0",
        )
    layers = said.get(f"{arch}.block_count")
    shapes = [one.info.shape for name, one in tensors.items() if _EXPERTS.fullmatch(name) and len(one.info.shape) > 2]
    return Model(
        str(arch),
        layers if type(layers) is int else max(blocks, default=-1) + 1,
        shapes[0][0] if shapes else 0,
        heads // (heads if groups is None else groups) if heads and groups != 0 else 1,
    )


def not_of_adapters() -> UsageError:
    """The error where a mixture is asked for an adapter."""
    return UsageError(
        "--dtype: a mixture of types is for a whole model, and not for an adapter",
        hint="a --dtype that is one type, as F16 or Q8_0",
    )


def _first(said: object) -> int | None:
    """The number of the first block, where each has its own."""
    first = said[0] if isinstance(said, list) and said else said
    return first if type(first) is int else None
