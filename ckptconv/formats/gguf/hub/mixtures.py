"""Hyperparameters of mixtures of experts: DeepSeek, GLM 4.5, Llama 4, gpt-oss, ERNIE 4.5, Qwen's, Granite's.

Sources: llama.cpp's conversion/ (`set_gguf_parameters` of their classes), src/models/ (what each reads and computes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.formats.gguf.hub.config import CONTEXT, unsupported
from ckptconv.formats.gguf.hub.shared import check_layer_types, check_value, granite, rotary

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_SCORES = {"softmax": 1, "sigmoid": 2}
"""``llama_expert_gating_func_type``."""

_LITE = (26, 27)
"""The numbers of layers by which llama.cpp recognises DeepSeek models whose q is a single matrix."""

_CHUNK, _NO_ROPE = 8192, 4
"""Llama 4's chunk of attention, and its period of layers without rotary embeddings; llama.cpp hard-codes both."""


def mixture(arch: str, *, normed: bool) -> Callable[[Config], Entries]:
    """What reads the hyperparameters of Qwen's and OLMo's mixtures; `normed`: the experts' weights are normalized."""

    def read(config: Config) -> Entries:
        if config.flag("norm_topk_prob", default=normed) != normed:
            raise unsupported(arch, "norm_topk_prob", not normed, "the weights of experts are normed otherwise")
        if config.items("mlp_only_layers") or config.integer("decoder_sparse_step", default=1) != 1:
            raise unsupported(arch, "mlp_only_layers", config.items("mlp_only_layers"), "all layers are mixtures")
        entries: Entries = {}
        if config.has("moe_intermediate_size"):
            entries["expert_feed_forward_length"] = ("uint32", config.positive("moe_intermediate_size"))
        if config.has("shared_expert_intermediate_size"):
            shared = config.positive("shared_expert_intermediate_size")
            entries["expert_shared_feed_forward_length"] = ("uint32", shared)
        return entries

    return read


def granite_mixture(config: Config) -> Entries:
    """Granite's mixtures, with or without shared experts."""
    entries = granite(config)
    if config.has("shared_intermediate_size"):
        entries["expert_shared_feed_forward_length"] = ("uint32", config.positive("shared_intermediate_size"))
    return entries


def deepseek2(config: Config) -> Entries:
    """DeepSeek V2 and V3. Their latent attention (MLA) is a single k and v head to llama.cpp."""
    _check_deepseek2(config)
    latent, rotary_width = config.positive("kv_lora_rank", default=512), config.positive("qk_rope_head_dim")
    entries: Entries = {
        "attention.head_count_kv": ("uint32", 1),
        "attention.kv_lora_rank": ("uint32", latent),
        "attention.key_length": ("uint32", latent + rotary_width),
        "attention.value_length": ("uint32", latent),
        "attention.key_length_mla": ("uint32", config.positive("qk_nope_head_dim") + rotary_width),
        "attention.value_length_mla": ("uint32", config.positive("v_head_dim")),
        "rope.dimension_count": ("uint32", rotary_width),
        **_routed(config),
        "expert_shared_count": ("uint32", config.integer("n_shared_experts", default=0)),
    }
    if config.has("q_lora_rank"):
        entries["attention.q_lora_rank"] = ("uint32", config.positive("q_lora_rank"))
    scores = config.text("scoring_func", default="sigmoid" if _is_v3(config) else "softmax")
    if scores not in _SCORES:
        raise unsupported("deepseek2", "scoring_func", scores, "experts are scored by softmax or sigmoid")
    if _is_v3(config) or config.has("scoring_func"):
        entries["expert_gating_func"] = ("uint32", _SCORES[scores])
    if not config.flag("norm_topk_prob", default=_is_v3(config)):
        entries.pop("expert_weights_norm", None)
    rope = config.rope()
    if rope.get("mscale_all_dim") is not None:
        entries["rope.scaling.yarn_log_multiplier"] = ("float32", 0.1 * config.number_of(rope, "mscale_all_dim"))
    return entries


def _is_v3(config: Config) -> bool:
    return "DeepseekV3ForCausalLM" in (config.items("architectures") or [])


def _check_deepseek2(config: Config) -> None:
    check_value("deepseek2", config, "rope_interleave", True, "heads are turned as neighbours")
    check_value("deepseek2", config, "moe_layer_freq", 1, "all layers but the first are mixtures")
    check_value("deepseek2", config, "attention_bias", False, "its projections have no biases")
    if config.text("topk_method") == "group_limited_greedy" and config.integer("n_group", default=1) > 1:
        why = "groups are chosen by their two best experts"
        raise unsupported("deepseek2", "topk_method", "group_limited_greedy", why)
    if (config.layers in _LITE) == config.has("q_lora_rank"):
        why = f"q is one matrix in models of {' or '.join(map(str, _LITE))} layers, and two in others"
        raise unsupported("deepseek2", "q_lora_rank", config.get("q_lora_rank"), why)
    rope = config.rope()
    if rope.get("mscale") != rope.get("mscale_all_dim"):
        raise unsupported("deepseek2", "mscale", rope.get("mscale"), "it is mscale_all_dim")


def _routed(config: Config) -> Entries:
    """The hyperparameters of experts in mixtures like DeepSeek's."""
    entries: Entries = {
        "leading_dense_block_count": ("uint32", config.integer("first_k_dense_replace", default=0)),
        "expert_feed_forward_length": ("uint32", config.positive("moe_intermediate_size")),
    }
    for key, new in (("n_group", "expert_group_count"), ("topk_group", "expert_group_used_count")):
        if config.has(key):
            entries[new] = ("uint32", config.positive(key))
    if config.has("routed_scaling_factor"):
        entries["expert_weights_scale"] = ("float32", config.number("routed_scaling_factor"))
    if config.has("norm_topk_prob"):
        entries["expert_weights_norm"] = ("bool", config.flag("norm_topk_prob"))
    return entries


def glm4_mixture(config: Config) -> Entries:
    """GLM 4.5 and 4.6."""
    return {
        **rotary(config, 0.5),
        **_routed(config),
        "expert_shared_count": ("uint32", config.positive("n_shared_experts")),
        "expert_gating_func": ("uint32", _SCORES["sigmoid"]),
    }


def gpt_oss(config: Config) -> Entries:
    """gpt-oss: every second layer has full attention; the outputs of gate and up are clamped."""
    check_layer_types("gpt-oss", config, 2)
    check_value("gpt-oss", config, "swiglu_limit", 7.0, "it limits to 7.0")
    return {
        "attention.sliding_window": ("uint32", config.positive("sliding_window", default=128)),
        "expert_feed_forward_length": ("uint32", config.positive("intermediate_size")),
    }


def llama4(config: Config) -> Entries:
    """Llama 4: every fourth layer has full attention, and no rotary embeddings."""
    layers, step = config.layers, config.positive("interleave_moe_layer_step", default=1)
    check_layer_types("llama4", config, _NO_ROPE, "chunked_attention")
    rotates = config.items("no_rope_layers")  # 1 for a layer with rotary embeddings, despite the key
    if rotates and rotates != [int((layer + 1) % _NO_ROPE != 0) for layer in range(layers)]:
        raise unsupported("llama4", "no_rope_layers", rotates, "every fourth layer is not turned")
    mixed = config.items("moe_layers")
    if mixed is not None and mixed != list(range(step - 1, layers, step)):
        raise unsupported("llama4", "moe_layers", mixed, f"of {step} layers the last is a mixture")
    normed = config.positive("num_local_experts") != 128
    check_value("llama4", config, "use_qk_norm", normed, "q and k are normed unless there are 128 experts")
    check_value("llama4", config, "attention_bias", False, "its projections have no biases")
    check_value("llama4", config, "attention_chunk_size", _CHUNK, f"layers attend to {_CHUNK} tokens at a time")
    if config.positive(*CONTEXT) > _CHUNK:
        check_value("llama4", config, "attn_temperature_tuning", True, "longer texts have another temperature")
        check_value("llama4", config, "floor_scale", _CHUNK, "longer texts have another temperature")
        check_value("llama4", config, "attn_scale", 0.1, "longer texts have another temperature")
    return {
        "feed_forward_length": ("uint32", config.positive("intermediate_size_mlp")),
        "expert_feed_forward_length": ("uint32", config.positive("intermediate_size")),
        "interleave_moe_layer_step": ("uint32", step),
        **rotary(config),
    }


def ernie_mixture(config: Config) -> Entries:
    """ERNIE 4.5's mixtures: softmax, with a bias for the choice of experts."""
    check_value("ernie4_5-moe", config, "use_bias", False, "its projections have no biases")
    last = config.get("moe_layer_end_index")
    if last is not None and last not in (-1, config.layers - 1):
        raise unsupported("ernie4_5-moe", "moe_layer_end_index", last, "the last layers are mixtures")
    width, shared = config.positive("moe_intermediate_size"), config.integer("moe_num_shared_experts", default=0)
    entries: Entries = {
        "expert_used_count": ("uint32", config.positive("moe_k")),
        "interleave_moe_layer_step": ("uint32", config.positive("moe_layer_interval", default=1)),
        "leading_dense_block_count": ("uint32", config.integer("moe_layer_start_index", default=0)),
        "expert_feed_forward_length": ("uint32", width),
        "expert_shared_count": ("uint32", shared),
    }
    return entries | ({"expert_shared_feed_forward_length": ("uint32", width * shared)} if shared else {})
