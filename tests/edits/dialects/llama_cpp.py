"""What llama.cpp's convert_hf_to_gguf.py makes of the tensors of transformers' classes, told again.

Names are from the table that llama.cpp itself uses, the `gguf` package's. What its classes do to the tensors besides
(``modify_tensors``) is said here in torch's words, class by class; so is what they leave out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    State = dict[str, torch.Tensor]

ARCHES = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
EXPERT = re.compile(r"(.*\.experts)\.\d+\.(\w+)\.weight")

LEFT_OUT = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "pooler.dense.weight", "pooler.dense.bias")
PERMUTED = ("llama", "mistral3", "granite", "granitemoe", "granitehybrid", "smollm3", "arcee", "olmo")
"""LlamaModel with undo_permute, what inherits from it, and OlmoModel."""
MAMBA2 = ("mamba2", "granitehybrid")
QWEN = ("qwen3next", "qwen35", "qwen35moe")
ONE_ADDED = ("gemma", "gemma2", "gemma3", "gemma-embedding", "nemotron", *QWEN)

RENAMED = {
    "e_score_correction_bias": "e_score_correction.bias", "self_attn.sinks": "self_attn.sinks.weight",
    "layer_scalar": "layer_scalar.weight", "mixer.dt_bias": "mixer.dt_proj.bias", "mamba.dt_bias": "mamba.dt_proj.bias",
    "expert_bias": "expert_bias.bias",
}  # fmt: skip
"""Endings to which they give one that the table of names knows."""

MERGED = {"llama": "layers.{}.feed_forward.experts.{}", "jamba": "model.layers.{}.mlp.experts.{}",
          "lfm2moe": "layers.{}.feed_forward.experts.{}"}  # fmt: skip
"""What they call all experts at once, where that is not the name of one without its number."""


def converted(arch: str, state: Mapping[str, torch.Tensor], config: Any) -> State:
    """The tensors of the GGUF, in float32."""
    tied = getattr(config, "tie_word_embeddings", False)
    kept = {
        n: t for n, t in state.items() if n not in LEFT_OUT and not (tied and n.startswith(("lm_head", "embed_out")))
    }
    names = get_tensor_name_map(ARCHES[arch], config.num_hidden_layers)
    found: State = {}
    for name, tensor in _modified(arch, _stacked(arch, kept), config):
        for old, new in RENAMED.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        name = name.removeprefix("transformer.") if arch == "bloom" else name.replace("language_model.", "")
        known = name if name.startswith("blk.") else names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None, name
        found[known] = tensor.contiguous()
    return found


def _stacked(arch: str, state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    experts: dict[str, list[torch.Tensor]] = {}
    for name, tensor in state.items():
        one = EXPERT.fullmatch(name)
        if one is None:
            yield name, tensor
            continue
        layer = re.findall(r"\d+", name)[0]
        merged = MERGED.get(arch, f"{one[1]}.{{1}}").format(layer, one[2])
        experts.setdefault(f"{merged}.weight", []).append(tensor)
    for name, tensors in experts.items():
        yield name, torch.stack(tensors)


def _modified(
    arch: str, tensors: Iterator[tuple[str, torch.Tensor]], config: Any
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors:
        layer = re.findall(r"\.(\d+)\.", name)[:1]
        heads = config.num_attention_heads if hasattr(config, "num_attention_heads") else 0
        groups = getattr(config, "num_key_value_heads", None) or heads
        part = {"q_proj": heads, "k_proj": groups}.get(name.split(".")[-2] if "." in name else "")
        if arch in QWEN and "linear_attn" in name:
            yield from _linear(arch, name, tensor, layer[0], config)
        elif arch in ONE_ADDED and name.endswith("norm.weight"):
            yield name, tensor + 1
        elif arch in PERMUTED and part:
            yield name, tensor.reshape(part, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        elif name.endswith("A_log"):
            made = -torch.exp(tensor)
            yield name, made[:, None] if arch in MAMBA2 else made
        elif name.endswith((".D",)) and arch in MAMBA2:
            yield name, tensor[:, None]
        elif name.endswith(("mixer.norm.weight", "mamba.norm.weight")) and arch in MAMBA2:
            yield name, tensor.reshape(2, -1)
        elif re.search(r"(conv1d|conv\.conv)\.weight$", name):
            yield name, tensor.squeeze(1)
        elif arch in ("bloom", "gptneox") and "query_key_value" in name:
            apart = tensor.reshape(heads, 3, -1, *tensor.shape[1:])
            yield name, torch.cat([apart[:, i].flatten(0, 1) for i in range(3)])
        elif arch == "falcon" and "query_key_value" in name:
            groups = config.num_kv_heads if config.new_decoder_architecture else 1
            apart = tensor.reshape(groups, heads // groups + 2, -1, *tensor.shape[1:])
            yield name, torch.cat([p.flatten(0, 2) for p in (apart[:, :-2], apart[:, -2:-1], apart[:, -1:])])
        elif name.endswith("shared_expert_gate.weight"):
            yield name, tensor.squeeze()
        elif arch == "gpt2" and re.search(r"h\.\d+\.(attn|mlp)\.c_\w+\.weight", name):
            yield name, tensor.T
        elif (more := MORE.get(arch)) and (made_of := more(name, tensor, layer[0] if layer else "", config)):
            yield from made_of.items()
        else:
            yield name, tensor


def _linear(arch: str, name: str, tensor: torch.Tensor, layer: str, config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Qwen3NextModel, and _LinearAttentionVReorderBase before it."""
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    key, value = config.linear_key_head_dim, config.linear_value_head_dim
    part = name.split("linear_attn.")[1].removesuffix(".weight")
    if arch != "qwen3next":
        front = {"in_proj_qkv": 2 * keys * key, "conv1d": 2 * keys * key}.get(part, 0)
        width = {"in_proj_a": 1, "in_proj_b": 1, "A_log": 1, "dt_bias": 1, "norm": 0}.get(part, value)
        if width:
            tensor = tensor.T if part == "out_proj" else tensor
            v = tensor[front:].reshape(keys, values // keys, width, *tensor.shape[1:]).swapaxes(0, 1)
            tensor = torch.cat([tensor[:front], v.reshape(tensor[front:].shape)])
            tensor = tensor.T if part == "out_proj" else tensor
    if part == "in_proj_qkvz":
        apart = tensor.reshape(keys, -1, tensor.shape[-1])
        *qkv, z = apart.split([key, key, values // keys * value, values // keys * value], 1)
        yield f"blk.{layer}.attn_qkv.weight", torch.cat([one.flatten(0, 1) for one in qkv])
        yield f"blk.{layer}.attn_gate.weight", z.flatten(0, 1)
        return
    made = -torch.exp(tensor) if part == "A_log" else tensor.squeeze() if part == "conv1d" else tensor
    yield name.replace("dt_bias", "dt_proj.bias"), made


def _deepseek2(name: str, tensor: torch.Tensor, layer: str, config: Any) -> State:
    if not name.endswith("kv_b_proj.weight"):
        return {}
    apart = tensor.reshape(config.num_attention_heads, -1, tensor.shape[-1])
    k, v = apart.split([config.qk_nope_head_dim, config.v_head_dim], 1)
    return {name.replace("kv_b", "k_b"): k.transpose(1, 2), name.replace("kv_b", "v_b"): v}


def _granitemoe(name: str, tensor: torch.Tensor, layer: str, config: Any) -> State:
    if name.endswith("shared_mlp.output_linear.weight") and not config.num_local_experts:
        return {f"blk.{layer}.ffn_down.weight": tensor}
    if not name.endswith("input_linear.weight"):
        return {}
    kind = "_exps" if "sparse" in name else "_shexp" if config.num_local_experts else ""
    gate, up = tensor.chunk(2, -2)
    return {f"blk.{layer}.ffn_gate{kind}.weight": gate, f"blk.{layer}.ffn_up{kind}.weight": up}


def _llama4(name: str, tensor: torch.Tensor, layer: str, config: Any) -> State:
    if name.endswith("experts.down_proj"):
        return {f"{name}.weight": tensor.transpose(-1, -2)}
    if not name.endswith("experts.gate_up_proj"):
        return {}
    gate, up = tensor.transpose(-1, -2).chunk(2, -2)
    return {name.replace("gate_up", "gate") + ".weight": gate, name.replace("gate_up", "up") + ".weight": up}


def _gpt_oss(name: str, tensor: torch.Tensor, layer: str, config: Any) -> State:
    if name.endswith("down_proj"):
        return {f"{name}.weight": tensor.transpose(-1, -2)}
    if name.endswith("down_proj_bias"):
        return {name.replace("_bias", ".bias"): tensor}
    if "gate_up_proj" not in name:
        return {}
    bias = name.endswith("_bias")
    stem, kind = name.removesuffix("_bias"), "bias" if bias else "weight"
    whole = tensor if bias else tensor.transpose(-1, -2)
    return {f"{stem.replace('gate_up', part)}.{kind}": whole[:, i::2] for i, part in enumerate(("gate", "up"))}


def _gemma4(name: str, tensor: torch.Tensor, layer: str, config: Any) -> State:
    if name.endswith("router.scale"):
        return {f"blk.{layer}.ffn_gate_inp.scale": tensor}
    if name.endswith("per_expert_scale"):
        return {f"blk.{layer}.ffn_down_exps.scale": tensor}
    return {f"{name}.weight": tensor} if ".experts." in name else {}


MORE: dict[str, Callable[[str, torch.Tensor, str, Any], State]] = {
    "deepseek2": _deepseek2, "granitemoe": _granitemoe, "granitehybrid": _granitemoe, "llama4": _llama4,
    "gpt-oss": _gpt_oss, "gemma4": _gemma4, "qwen3vlmoe": _llama4,
}  # fmt: skip
