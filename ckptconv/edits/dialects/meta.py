"""Llama as Meta releases it, and Mistral as Mistral does, with transformers' names.

    tok_embeddings → model.embed_tokens    layers.0.attention.wq → model.layers.0.self_attn.q_proj    w1 → gate_proj …

Meta's rotary embedding turns neighbours in a head, transformers' the two halves of it: the rows of wq and wk change
places accordingly, for which the number of heads has to be known. The metadata says it, or the params.json beside the
file (``n_heads``, ``n_kv_heads``). rope.freqs, which transformers computes, keeps its name. Files with a slice each of
every tensor (consolidated.01.pth) are not put together.

Sources: meta-llama/llama, llama/model.py; transformers' convert_llama_weights_to_hf.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, halves_of
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo

_ROOT = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
_IN_LAYER = re.compile(r"layers\.(\d+)\.([\w.]+)\.weight")


def changes(tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object]) -> dict[str, Change]:
    """What becomes of each tensor. Raises EditError where it has a wq and nothing says how many heads."""
    turned = any(name.endswith(("attention.wq.weight", "attention.wk.weight")) for name in tensors)
    heads = _heads(metadata) if turned else {}
    return {name: _change(name, info, heads) for name, info in tensors.items()}


def _heads(metadata: Mapping[object, object]) -> dict[str, int]:
    query = metadata.get("n_heads")
    key = metadata.get("n_kv_heads")
    if type(query) is not int or query < 1 or (key is not None and (type(key) is not int or key < 1)):
        raise EditError(
            "--translate meta: nothing says how many heads there are",
            hint="a params.json beside the file does, or metadata with n_heads and n_kv_heads",
        )
    return {"attention.wq": query, "attention.wk": key if type(key) is int else query}


def _change(name: str, info: TensorInfo, heads: Mapping[str, int]) -> Change:
    inside = _IN_LAYER.fullmatch(name)
    if inside is None:
        stem, dot, kind = name.partition(".")
        return Change.to(f"{_ROOT[stem]}.weight" if stem in _ROOT and dot and kind == "weight" else name)
    layer, part = inside.groups()
    if part not in _LAYER:
        return Change.to(name)
    new = f"model.layers.{layer}.{_LAYER[part]}.weight"
    halves = halves_of(name, info, heads[part]) if part in heads else None
    return Change(names=(new,), unpack=halves is not None and info.dtype.kind == "block", halves=halves)
