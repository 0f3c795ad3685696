"""Checks that a language model's hyperparameters agree with its tensors.

Otherwise llama.cpp would only find out when it loads the file: that a tensor is missing, or has another shape.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.edits.dialects.gguf_table import EMBEDDINGS, architectures
from ckptconv.errors import EditError
from ckptconv.formats.gguf.hub.layers import OTHER_MODEL, check_layers, missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.gguf_table import Architecture
    from ckptconv.formats.gguf.values import Typed

    Infos = Mapping[str, TensorInfo]

_NORM, _LAST_NORM = "blk.0.attn_norm.weight", "output_norm.weight"
_LAST_NORMS = {"lfm2": "token_embd_norm.weight", "lfm2moe": "token_embd_norm.weight"}
"""What these architectures call the last norm."""
_ENCODER = "enc.blk.0.attn_norm.weight"
_FUSED = ("glm4", "modern-bert", "phi3")
"""Architectures whose ffn_up holds gate and up in one matrix."""

_TRANSLATION = "to-gguf"


def check_sizes(arch: str, entries: Mapping[str, Typed], tensors: Infos) -> None:
    """Raise EditError if the configuration belongs to another model, or tensors are missing."""
    numbers = {key: value for key, (_, value) in entries.items() if type(value) is int}
    _check_embeddings(numbers, tensors)
    table = architectures()[arch]
    for prefix, count in _layer_counts(numbers, tensors).items():
        _check_layers(prefix, count, tensors, table)
    last = _LAST_NORMS.get(arch, _LAST_NORM)
    if _NORM in tensors and last not in tensors:
        raise missing(_TRANSLATION, f"there is no {last}")
    if not numbers["attention.head_count"]:
        return
    heads, width = numbers["attention.head_count"], numbers["embedding_length"]
    head_width = numbers.get("attention.key_length_mla", numbers.get("attention.key_length", width // heads))
    rows = {"attn_q": heads * head_width, "attn_k": _kv_heads(entries, heads) * head_width}
    if table.delta:
        rows["attn_q"] *= 2  # a gate beside each head
    if arch not in _FUSED and "feed_forward_length" in numbers:
        rows["ffn_up"] = numbers["feed_forward_length"]
    _check_rows(rows, tensors)


def _layer_counts(numbers: Mapping[str, int], tensors: Infos) -> dict[str, int]:
    """The number of layers behind each prefix of tensor names."""
    if "decoder_block_count" in numbers:
        return {"enc.": numbers["block_count"], "dec.": numbers["decoder_block_count"]}
    return {"enc." if _ENCODER in tensors else "": numbers["block_count"]}


def _check_rows(rows: Mapping[str, int], tensors: Infos) -> None:
    """Raise EditError unless these matrices of the first layer, if it has them, have so many rows."""
    for part, count in rows.items():
        info = tensors.get(f"blk.0.{part}.weight")
        if info is not None and info.shape[:1] != (count,):
            raise EditError(
                f"--translate {_TRANSLATION}: by {CONFIG} {part} has {count:,} rows, and its tensor is "
                f"{list(info.shape)}",
                hint=OTHER_MODEL,
            )


def _kv_heads(entries: Mapping[str, Typed], heads: int) -> int:
    """The number of k and v heads in the first layer."""
    _, value = entries.get("attention.head_count_kv", ("uint32", heads))
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) else heads


def _check_embeddings(numbers: Mapping[str, int], tensors: Infos) -> None:
    embeddings = tensors.get(EMBEDDINGS)
    if embeddings is None:
        raise missing(_TRANSLATION, f"there are no embeddings ({EMBEDDINGS})")
    for key, axis, what in (("embedding_length", 1, "a width"), ("vocab_size", 0, "a vocabulary")):
        if len(embeddings.shape) != 2 or embeddings.shape[axis] != numbers[key]:
            raise EditError(
                f"--translate {_TRANSLATION}: {CONFIG} says {what} of {numbers[key]}, and the embeddings are "
                f"{list(embeddings.shape)}", hint=OTHER_MODEL,
            )  # fmt: skip


def _check_layers(prefix: str, count: int, names: Iterable[str], table: Architecture) -> None:
    """Raise EditError if a layer is missing, or lacks a tensor that others of its kind have and `table` requires."""
    layers: dict[int, set[str]] = defaultdict(set)
    start = f"{prefix}blk."
    for name in names:
        number, _, part = name.removeprefix(start).partition(".")
        if name.startswith(start) and number.isdecimal() and part.removesuffix(".weight") not in table.some:
            layers[int(number)].add(part)
    check_layers(_TRANSLATION, count, layers, table.kinds)
