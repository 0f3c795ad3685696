"""Llama as Meta releases it, and Mistral as Mistral does, translated to transformers' names.

    tok_embeddings → model.embed_tokens    layers.0.attention.wq → model.layers.0.self_attn.q_proj    w1 → gate_proj …

Meta's rotary embedding rotates neighbouring pairs in a head, transformers' pairs up its two halves; so the rows of wq
and wk are reordered, for which the number of heads must be known. It is in the metadata, or in the params.json beside
the file (``n_heads``, ``n_kv_heads``; ``head_dim``, if that is not ``dim / n_heads``). rope.freqs, which transformers
computes, keeps its name. One slice of several (consolidated.00.pth beside consolidated.01.pth) has too few rows for its
heads and is refused: `ckptconv.formats.torch.sets.slices` puts slices together.

Sources: meta-llama/llama, llama/model.py; transformers' convert_llama_weights_to_hf.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.attention import halves_of
from ckptconv.edits.dialects.change import Change
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.change import Permutation

_ROOT = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
_ROTARY = ("attention.wq", "attention.wk")
_IN_LAYER = re.compile(r"layers\.(\d+)\.([\w.]+)\.weight")


def changes(tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object]) -> dict[str, Change]:
    """The change of each tensor. Raises EditError if there is a wq and the number of heads is not known, or the rows do
    not fit it.
    """
    if not any(map(_is_llama_name, tensors)):  # a norm and an output many networks have
        return {name: Change.to(name) for name in tensors}
    has_rotary = any(name.endswith(tuple(f".{part}.weight" for part in _ROTARY)) for name in tensors)
    heads = _heads(metadata) if has_rotary else {}
    return {name: _change(name, info, heads, metadata.get("head_dim")) for name, info in tensors.items()}


def known(names: Iterable[str]) -> bool:
    """Whether one of these names is that of a query matrix of Llama's."""
    return any(inside is not None and inside[2] == "attention.wq" for inside in map(_IN_LAYER.fullmatch, names))


def _is_llama_name(name: str) -> bool:
    inside = _IN_LAYER.fullmatch(name)
    return name == "tok_embeddings.weight" or (inside is not None and inside[2] in _LAYER)


def _heads(metadata: Mapping[object, object]) -> dict[str, int]:
    query = metadata.get("n_heads")
    key = metadata.get("n_kv_heads")
    if type(query) is not int or query < 1 or (key is not None and (type(key) is not int or key < 1)):
        raise EditError(
            "--translate meta: nothing says how many heads there are",
            hint="a params.json beside the file does, or metadata with n_heads and n_kv_heads",
        )
    return dict(zip(_ROTARY, (query, key if type(key) is int else query), strict=True))


def _halves(name: str, info: TensorInfo, heads: int, width: int) -> Permutation:
    """The permutation of the rows of wq or wk. Raises EditError if the number of rows does not fit the heads."""
    rows = info.shape[0] if info.shape else 0
    if heads * width != rows:
        raise EditError(
            f"{name!r} has {rows:,} rows, and {heads} heads of {width} take {heads * width:,}",
            hint="one slice of several has too few: name the folder with all of them; else n_heads, n_kv_heads or "
            "head_dim is wrong",
        )
    return halves_of(name, info, heads)


def _change(name: str, info: TensorInfo, heads: Mapping[str, int], head_dim: object) -> Change:
    inside = _IN_LAYER.fullmatch(name)
    if inside is None:
        stem, dot, kind = name.partition(".")
        return Change.to(f"{_ROOT[stem]}.weight" if stem in _ROOT and dot and kind == "weight" else name)
    layer, part = inside.groups()
    if part not in _LAYER:
        return Change.to(name)
    new = f"model.layers.{layer}.{_LAYER[part]}.weight"
    if part not in heads:
        return Change.to(new)
    width = head_dim if type(head_dim) is int else info.shape[-1] // heads[_ROTARY[0]] if info.shape else 0
    halves = _halves(name, info, heads[part], width)
    return Change(names=(new,), unpack=info.dtype.kind == "block", permute=halves)
