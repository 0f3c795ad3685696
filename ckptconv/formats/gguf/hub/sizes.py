"""What the configuration says of sizes beside the tensors that there are, under llama.cpp's names.

llama.cpp finds out only when it loads the file: a tensor that is missing, or of another shape than it asks for.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.edits.dialects.gguf_table import EMBEDDINGS, architectures
from ckptconv.errors import EditError
from ckptconv.formats.gguf.hub.whole import OTHERS, check_layers, missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.gguf_table import Architecture
    from ckptconv.formats.gguf.values import Typed

    Infos = Mapping[str, TensorInfo]

_NORM, _LAST_NORM = "blk.0.attn_norm.weight", "output_norm.weight"
_LAST_NORMS = {"lfm2": "token_embd_norm.weight", "lfm2moe": "token_embd_norm.weight"}
"""What they call the last norm instead."""
_ENCODER = "enc.blk.0.attn_norm.weight"
_FUSED = ("glm4", "modern-bert", "phi3")
"""Architectures whose ffn_up is two matrices in one."""

_TRANSLATION = "to-gguf"


def check_sizes(arch: str, entries: Mapping[str, Typed], tensors: Infos) -> None:
    """Raise EditError where the configuration is another model's, or tensors are missing."""
    said = {key: value for key, (_, value) in entries.items() if type(value) is int}
    _check_embeddings(said, tensors)
    table, deep = architectures()[arch], "decoder_block_count"
    prefixes = ("enc.", "dec.") if deep in said else ("enc.",) if _ENCODER in tensors else ("",)
    for prefix in prefixes:
        _check_layers(prefix, said[deep] if prefix == "dec." else said["block_count"], tensors, table)
    last = _LAST_NORMS.get(arch, _LAST_NORM)
    if _NORM in tensors and last not in tensors:
        raise missing(_TRANSLATION, f"there is no {last}")
    if not said["attention.head_count"]:
        return
    heads, width = said["attention.head_count"], said["embedding_length"]
    head = said.get("attention.key_length_mla", said.get("attention.key_length", width // heads))
    rows = {"attn_q": heads * head, "attn_k": _groups(entries, heads) * head}
    if table.delta:
        rows["attn_q"] *= 2  # a gate beside each head
    if arch not in _FUSED and "feed_forward_length" in said:
        rows["ffn_up"] = said["feed_forward_length"]
    for part, count in rows.items():
        info = tensors.get(f"blk.0.{part}.weight")
        if info is not None and info.shape[0] != count:
            raise EditError(
                f"--translate {_TRANSLATION}: by {CONFIG} {part} has {count:,} rows, and its tensor is "
                f"{list(info.shape)}",
                hint=OTHERS,
            )


def _groups(entries: Mapping[str, Typed], heads: int) -> int:
    """How many k and v the first layer has."""
    _, value = entries.get("attention.head_count_kv", ("uint32", heads))
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) else heads


def _check_embeddings(said: Mapping[str, int], tensors: Infos) -> None:
    embeddings = tensors.get(EMBEDDINGS)
    if embeddings is None:
        raise missing(_TRANSLATION, f"there are no embeddings ({EMBEDDINGS})")
    for key, axis, what in (("embedding_length", 1, "a width"), ("vocab_size", 0, "a vocabulary")):
        if len(embeddings.shape) != 2 or embeddings.shape[axis] != said[key]:
            raise EditError(
                f"--translate {_TRANSLATION}: {CONFIG} says {what} of {said[key]}, and the embeddings are "
                f"{list(embeddings.shape)}", hint=OTHERS,
            )  # fmt: skip


def _check_layers(prefix: str, count: int, names: Iterable[str], table: Architecture) -> None:
    """All layers of a kind have the same parts but for a few; which these are, the architecture says."""
    layers: dict[int, set[str]] = defaultdict(set)
    start = f"{prefix}blk."
    for name in names:
        number, _, part = name.removeprefix(start).partition(".")
        if name.startswith(start) and number.isdecimal() and part.removesuffix(".weight") not in table.some:
            layers[int(number)].add(part)
    check_layers(_TRANSLATION, count, layers, table.kinds)
