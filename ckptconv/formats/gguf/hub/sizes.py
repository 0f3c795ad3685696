"""What the configuration says of sizes beside the tensors that there are, under llama.cpp's names.

llama.cpp finds out only when it loads the file: a tensor that is missing, or of another shape than it asks for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.errors import EditError
from ckptconv.formats.gguf.hub.config import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.formats.gguf.values import Typed

    Infos = Mapping[str, TensorInfo]

EMBEDDINGS = "token_embd.weight"
_NORM, _LAST_NORM = "blk.0.attn_norm.weight", "output_norm.weight"
_BLOCK = re.compile(r"(?:enc\.|dec\.)?blk\.([0-9]+)\.")
_FUSED = ("phi3",)
"""Architectures whose ffn_up is two matrices in one."""

_OTHERS = "it may be another model's"


def check_sizes(arch: str, entries: Mapping[str, Typed], tensors: Infos) -> None:
    """Raise EditError where the configuration is another model's, or tensors are missing."""
    said = {key: value for key, (_, value) in entries.items() if type(value) is int}
    _check_embeddings(said, tensors)
    _check_layers(said["block_count"], tensors)
    if _NORM in tensors and _LAST_NORM not in tensors:
        raise _missing(f"there is no {_LAST_NORM}")
    heads, width = said["attention.head_count"], said["embedding_length"]
    head = said.get("attention.key_length", width // heads)
    rows = {"attn_q": heads * head, "attn_k": said.get("attention.head_count_kv", heads) * head}
    if arch not in _FUSED:
        rows["ffn_up"] = said["feed_forward_length"]
    for part, count in rows.items():
        info = tensors.get(f"blk.0.{part}.weight")
        if info is not None and info.shape[0] != count:
            raise EditError(
                f"--translate to-gguf: by {CONFIG} {part} has {count:,} rows, and its tensor is {list(info.shape)}",
                hint=_OTHERS,
            )


def _check_embeddings(said: Mapping[str, int], tensors: Infos) -> None:
    embeddings = tensors.get(EMBEDDINGS)
    if embeddings is None:
        raise _missing(f"there are no embeddings ({EMBEDDINGS})")
    for key, axis, what in (("embedding_length", 1, "a width"), ("vocab_size", 0, "a vocabulary")):
        if len(embeddings.shape) != 2 or embeddings.shape[axis] != said[key]:
            raise EditError(
                f"--translate to-gguf: {CONFIG} says {what} of {said[key]}, and the embeddings are "
                f"{list(embeddings.shape)}", hint=_OTHERS,
            )  # fmt: skip


def _check_layers(count: int, names: Iterable[str]) -> None:
    """All layers have the same parts in these architectures."""
    layers: dict[int, set[str]] = defaultdict(set)
    for name in names:
        if found := _BLOCK.match(name):
            layers[int(found[1])].add(name[found.end() :])
    if layers.keys() != set(range(count)):
        raise _missing(f"{CONFIG} says {count} layers, and the tensors have {len(layers)}")
    parts = set[str]().union(*layers.values())
    for number, own in sorted(layers.items()):
        if lost := sorted(parts - own):
            raise _missing(f"layer {number} has no {lost[0]}, which others have")


def _missing(what: str) -> EditError:
    return EditError(f"--translate to-gguf: {what}", hint=f"{_OTHERS}, or a shard is missing")
