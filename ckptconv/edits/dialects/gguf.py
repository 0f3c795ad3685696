"""llama.cpp's names, as transformers' classes have them.

    token_embd → model.embed_tokens    blk.0.attn_q → model.layers.0.self_attn.q_proj    ffn_up → mlp.up_proj    …

llama.cpp turns the two halves of each head of q and k in Llama's kin, which is undone, in floats; a stack of experts
becomes one tensor for each, as transformers has them on disk. What transformers computes of its configuration
(rope_freqs, rope_factors_long) keeps its name. Architectures whose values llama.cpp changes as well, or of whose
layouts nothing is known here, are refused by name.

Sources: llama.cpp's convert_hf_to_gguf.py and gguf-py/gguf/tensor_mapping.py; transformers'
modeling_gguf_pytorch_utils.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, halves_of
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo

_ROOT = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.{}.gate_proj", "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}  # fmt: skip
_SHARED = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate", "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj", "ffn_down_shexp": "mlp.shared_expert.down_proj",
}  # fmt: skip
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate", "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3", "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Names:
    """How transformers calls the parts of an architecture.

    turned: modules whose weights it holds with inputs first. halves: q and k have their rotary halves turned.
    """

    root: Mapping[str, str] = field(default_factory=lambda: _ROOT)
    layer: Mapping[str, str] = field(default_factory=lambda: _LAYER)
    layers: str = "model.layers"
    turned: frozenset[str] = frozenset()
    halves: bool = False


ARCHITECTURES = {
    "llama": _Names(layer=_LAYER | _MIXTRAL, halves=True),
    "qwen2": _Names(),
    "qwen3": _Names(),
    "qwen2moe": _Names(layer=_LAYER | _EXPERTS | _SHARED),
    "qwen3moe": _Names(layer=_LAYER | _EXPERTS),
    "phi3": _Names(layer=_LAYER | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}),
    "starcoder2": _Names(layer=_LAYER | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}),
    "stablelm": _Names(),
    "gpt2": _Names(
        root={
            "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
            "output": "lm_head",
        },
        layer={
            "attn_norm": "ln_1", "ffn_norm": "ln_2", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
            "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
        },
        layers="transformer.h",
        turned=frozenset(["attn_qkv", "attn_output", "ffn_up", "ffn_down"]),
    ),
}  # fmt: skip

_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(?:(\d+)\.)?(weight|bias)")
_WHOLE = re.compile(r"(\w+)\.(weight|bias)")


def changes(tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object]) -> dict[str, Change]:
    """What becomes of each tensor. Raises EditError where nothing says the architecture, UnsupportedError for one that
    is not in `ARCHITECTURES`.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise EditError(
            "--translate gguf: no general.architecture says whose names these are", hint="a GGUF has it in its metadata"
        )
    names = ARCHITECTURES.get(architecture)
    if names is None:
        raise UnsupportedError(
            f"--translate gguf does not know the architecture {architecture[:80]!r}",
            hint=f"it knows {', '.join(ARCHITECTURES)}; --rules FILE renames any",
        )
    heads = _heads(metadata, architecture) if names.halves else {}
    return {name: _change(name, info, names, heads) for name, info in tensors.items()}


def _heads(metadata: Mapping[object, object], architecture: str) -> dict[str, int]:
    """How many heads q and k have."""
    counts = {
        part: metadata.get(f"{architecture}.attention.{key}")
        for part, key in (("attn_q", "head_count"), ("attn_k", "head_count_kv"))
    }
    counts["attn_k"] = counts["attn_q"] if counts["attn_k"] is None else counts["attn_k"]
    found = {part: count for part, count in counts.items() if type(count) is int and count > 0}
    if len(found) < len(counts):
        raise UnsupportedError(
            f"--translate gguf: {architecture}.attention.head_count is not one number of heads for all layers",
            hint="--rules FILE renames any",
        )
    return found


def _change(name: str, info: TensorInfo, names: _Names, heads: Mapping[str, int]) -> Change:
    in_block = _BLOCK.fullmatch(name)
    if in_block is None:
        whole = _WHOLE.fullmatch(name)
        known = whole and names.root.get(whole[1])
        return Change.to(f"{known}.{whole[2]}" if whole and known else name)
    layer, part, expert, kind = in_block.groups()
    known = names.layer.get(f"{part}_exps" if expert is not None else part)
    if known is None:
        return Change.to(name)
    new = f"{names.layers}.{layer}.{known}.{kind}"
    if "{}" in known:
        numbers = [expert] if expert is not None else [str(i) for i in range(info.shape[0] if info.shape else 0)]
        return Change(names=tuple(new.replace("{}", number) for number in numbers) or (name,))
    if part in heads:
        return Change(names=(new,), unpack=info.dtype.kind == "block", halves=halves_of(name, info, heads[part]))
    if part.endswith("_inp_shexp") and len(info.shape) == 1:
        return Change.to(new, (1, *info.shape))
    turned = part in names.turned and kind == "weight"
    return Change(names=(new,), unpack=turned and info.dtype.kind == "block", axes=(1, 0) if turned else None)
