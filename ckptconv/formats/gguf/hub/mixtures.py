"""Architectures with experts of their own kinds: DeepSeek, GLM 4.5, Llama 4, gpt-oss, ERNIE 4.5, Qwen's, Granite's.

Sources: llama.cpp's conversion/ (`set_gguf_parameters` of their classes), src/models/ (what each reads and computes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.formats.gguf.hub.config import CONTEXT, unlike
from ckptconv.formats.gguf.hub.shared import check_kinds, check_said, granite, rotary

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_SCORES = {"softmax": 1, "sigmoid": 2}
"""``llama_expert_gating_func_type``."""

_LITE = (26, 27)
"""Numbers of layers of DeepSeek's models whose q is one matrix, as llama.cpp tells them."""

_CHUNK, _NO_ROPE = 8192, 4
"""Llama 4's, which llama.cpp takes for granted."""


def mixture(arch: str, *, normed: bool) -> Callable[[Config], Entries]:
    """Qwen's and OLMo's, whose weights are normed or not."""

    def entries(config: Config) -> Entries:
        if config.flag("norm_topk_prob", default=normed) != normed:
            raise unlike(arch, "norm_topk_prob", not normed, "the weights of experts are normed otherwise")
        if config.items("mlp_only_layers") or config.integer("decoder_sparse_step", default=1) != 1:
            raise unlike(arch, "mlp_only_layers", config.items("mlp_only_layers"), "all layers are mixtures")
        found: Entries = {}
        if config.has("moe_intermediate_size"):
            found["expert_feed_forward_length"] = ("uint32", config.positive("moe_intermediate_size"))
        if config.has("shared_expert_intermediate_size"):
            shared = config.positive("shared_expert_intermediate_size")
            found["expert_shared_feed_forward_length"] = ("uint32", shared)
        return found

    return entries


def granite_mixture(config: Config) -> Entries:
    """Granite's, with experts that all tokens have or without."""
    found = granite(config)
    if config.has("shared_intermediate_size"):
        found["expert_shared_feed_forward_length"] = ("uint32", config.positive("shared_intermediate_size"))
    return found


def deepseek2(config: Config) -> Entries:
    """DeepSeek V2 and V3: k and v of all heads come from one vector, which llama.cpp keeps as the only k and v."""
    _check_deepseek2(config)
    latent, turned = config.positive("kv_lora_rank", default=512), config.positive("qk_rope_head_dim")
    found: Entries = {
        "attention.head_count_kv": ("uint32", 1),
        "attention.kv_lora_rank": ("uint32", latent),
        "attention.key_length": ("uint32", latent + turned),
        "attention.value_length": ("uint32", latent),
        "attention.key_length_mla": ("uint32", config.positive("qk_nope_head_dim") + turned),
        "attention.value_length_mla": ("uint32", config.positive("v_head_dim")),
        "rope.dimension_count": ("uint32", turned),
        **_routed(config),
        "expert_shared_count": ("uint32", config.integer("n_shared_experts", default=0)),
    }
    if config.has("q_lora_rank"):
        found["attention.q_lora_rank"] = ("uint32", config.positive("q_lora_rank"))
    scores = config.text("scoring_func", default="sigmoid" if _is_v3(config) else "softmax")
    if scores not in _SCORES:
        raise unlike("deepseek2", "scoring_func", scores, "experts are scored by softmax or sigmoid")
    if _is_v3(config) or config.has("scoring_func"):
        found["expert_gating_func"] = ("uint32", _SCORES[scores])
    if not config.flag("norm_topk_prob", default=_is_v3(config)):
        found.pop("expert_weights_norm", None)
    scaled = config.rope()
    if scaled.get("mscale_all_dim") is not None:
        found["rope.scaling.yarn_log_multiplier"] = ("float32", 0.1 * config.number_of(scaled, "mscale_all_dim"))
    return found


def _is_v3(config: Config) -> bool:
    return "DeepseekV3ForCausalLM" in (config.items("architectures") or [])


def _check_deepseek2(config: Config) -> None:
    check_said("deepseek2", config, "rope_interleave", True, "heads are turned as neighbours")
    check_said("deepseek2", config, "moe_layer_freq", 1, "all layers but the first are mixtures")
    check_said("deepseek2", config, "attention_bias", False, "its projections have no biases")
    if config.text("topk_method") == "group_limited_greedy" and config.integer("n_group", default=1) > 1:
        raise unlike("deepseek2", "topk_method", "group_limited_greedy", "groups are chosen by their two best experts")
    if (config.layers in _LITE) == config.has("q_lora_rank"):
        why = f"q is one matrix in models of {' or '.join(map(str, _LITE))} layers, and two in others"
        raise unlike("deepseek2", "q_lora_rank", config.get("q_lora_rank"), why)
    scaled = config.rope()
    if scaled.get("mscale") != scaled.get("mscale_all_dim"):
        raise unlike("deepseek2", "mscale", scaled.get("mscale"), "it is mscale_all_dim")


def _routed(config: Config) -> Entries:
    """What DeepSeek's mixtures and those like them say of their experts."""
    found: Entries = {
        "leading_dense_block_count": ("uint32", config.integer("first_k_dense_replace", default=0)),
        "expert_feed_forward_length": ("uint32", config.positive("moe_intermediate_size")),
    }
    for key, new in (("n_group", "expert_group_count"), ("topk_group", "expert_group_used_count")):
        if config.has(key):
            found[new] = ("uint32", config.positive(key))
    if config.has("routed_scaling_factor"):
        found["expert_weights_scale"] = ("float32", config.number("routed_scaling_factor"))
    if config.has("norm_topk_prob"):
        found["expert_weights_norm"] = ("bool", config.flag("norm_topk_prob"))
    return found


def glm4_mixture(config: Config) -> Entries:
    """GLM 4.5 and 4.6."""
    return {
        **rotary(config, 0.5),
        **_routed(config),
        "expert_shared_count": ("uint32", config.positive("n_shared_experts")),
        "expert_gating_func": ("uint32", _SCORES["sigmoid"]),
    }


def gpt_oss(config: Config) -> Entries:
    """Every second layer attends to all; what comes out of gate and up is limited."""
    check_kinds("gpt-oss", config, 2)
    check_said("gpt-oss", config, "swiglu_limit", 7.0, "it limits to 7.0")
    return {
        "attention.sliding_window": ("uint32", config.positive("sliding_window", default=128)),
        "expert_feed_forward_length": ("uint32", config.positive("intermediate_size")),
    }


def llama4(config: Config) -> Entries:
    """Every fourth layer attends to all and turns nothing."""
    layers, step = config.layers, config.positive("interleave_moe_layer_step", default=1)
    check_kinds("llama4", config, _NO_ROPE, "chunked_attention")
    turned = config.items("no_rope_layers")
    if turned and turned != [int((layer + 1) % _NO_ROPE != 0) for layer in range(layers)]:
        raise unlike("llama4", "no_rope_layers", turned, "every fourth layer is not turned")
    mixed = config.items("moe_layers")
    if mixed is not None and mixed != list(range(step - 1, layers, step)):
        raise unlike("llama4", "moe_layers", mixed, f"of {step} layers the last is a mixture")
    normed = config.positive("num_local_experts") != 128
    check_said("llama4", config, "use_qk_norm", normed, "q and k are normed unless there are 128 experts")
    check_said("llama4", config, "attention_bias", False, "its projections have no biases")
    check_said("llama4", config, "attention_chunk_size", _CHUNK, f"layers attend to {_CHUNK} tokens at a time")
    if config.positive(*CONTEXT) > _CHUNK:
        check_said("llama4", config, "attn_temperature_tuning", True, "longer texts have another temperature")
        check_said("llama4", config, "floor_scale", _CHUNK, "longer texts have another temperature")
        check_said("llama4", config, "attn_scale", 0.1, "longer texts have another temperature")
    return {
        "feed_forward_length": ("uint32", config.positive("intermediate_size_mlp")),
        "expert_feed_forward_length": ("uint32", config.positive("intermediate_size")),
        "interleave_moe_layer_step": ("uint32", step),
        **rotary(config),
    }


def ernie_mixture(config: Config) -> Entries:
    """ERNIE 4.5's: softmax, and a bias with which experts are chosen."""
    check_said("ernie4_5-moe", config, "use_bias", False, "its projections have no biases")
    last = config.get("moe_layer_end_index")
    if last is not None and last not in (-1, config.layers - 1):
        raise unlike("ernie4_5-moe", "moe_layer_end_index", last, "the last layers are mixtures")
    width, shared = config.positive("moe_intermediate_size"), config.integer("moe_num_shared_experts", default=0)
    found: Entries = {
        "expert_used_count": ("uint32", config.positive("moe_k")),
        "interleave_moe_layer_step": ("uint32", config.positive("moe_layer_interval", default=1)),
        "leading_dense_block_count": ("uint32", config.integer("moe_layer_start_index", default=0)),
        "expert_feed_forward_length": ("uint32", width),
        "expert_shared_count": ("uint32", shared),
    }
    return found | ({"expert_shared_feed_forward_length": ("uint32", width * shared)} if shared else {})
