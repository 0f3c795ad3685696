"""Hyperparameters that only single architectures have, and what llama.cpp hard-codes for each.

Hard-coded are, for example, the activation, which layers have rotary embeddings, and how q is scaled. A configuration
that states something else is refused by name: llama.cpp would load the file, and compute something else.

Sources: llama.cpp's conversion/ (`set_gguf_parameters`), src/models/ (what each reads and computes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.edits.dialects.gguf_config import falcon_groups
from ckptconv.formats.gguf.hub.config import CONTEXT, unsupported
from ckptconv.formats.gguf.hub.delta import delta
from ckptconv.formats.gguf.hub.documents import bad
from ckptconv.formats.gguf.hub.encoder import bert, modern_bert, nomic_bert, t5, t5_encoder
from ckptconv.formats.gguf.hub.mixtures import (
    deepseek2,
    ernie_mixture,
    glm4_mixture,
    gpt_oss,
    granite_mixture,
    llama4,
    mixture,
)
from ckptconv.formats.gguf.hub.recurrent import granite_hybrid, lfm2, lfm2_mixture, mamba, mamba2
from ckptconv.formats.gguf.hub.shared import (
    check_layer_types,
    check_value,
    granite,
    layer_types,
    mrope_sections,
    rotary,
)
from ckptconv.formats.gguf.values import F32_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.core.report import Finding
    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh_python")
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "arcee": ("relu2",), "bert": _GELUS, "bloom": _GELUS, "falcon": _GELUS, "gemma": _GELUS, "gemma2": _GELUS,
    "gemma3": _GELUS, "gpt2": _GELUS, "gptneox": _GELUS, "modern-bert": (*_GELUS, "silu"), "nemotron": ("relu2",),
    "nomic-bert": ("swiglu", "silu"), "phi2": _GELUS, "starcoder": _GELUS, "starcoder2": _GELUS,
}  # fmt: skip
"""The activations that llama.cpp computes; silu for all other architectures. Its GELU is the tanh approximation."""

_EXAONE_LAYERS = 64
_HUNYUAN_CONTEXTS = (32 << 10, 256 << 10)
"""The context lengths that HunYuan's configurations state for a model of 262,144 tokens."""


def check_activation(arch: str, config: Config) -> None:
    """Raise UnsupportedError for an activation that llama.cpp does not compute."""
    activation = config.text("hidden_activation") or config.text("hidden_act", "activation_function", "activation")
    known = _ACTIVATIONS.get(arch, ("silu", "swish"))
    if activation and activation not in known:
        raise unsupported(arch, "hidden_act", activation, f"it computes with {known[0]}")


def _llama(config: Config) -> Entries:
    return rotary(config)


def _mistral3(config: Config) -> Entries:
    """Mistral Small 3, and Ministral 3, whose attention has another temperature for longer texts."""
    rope = config.rope()
    entries = rotary(config)
    if config.text("model_type") == "ministral3":
        if rope["rope_type"] != "yarn" or rope.get("mscale") != rope.get("mscale_all_dim"):
            raise unsupported("mistral3", "rope_parameters", rope, "they are yarn, with one mscale")
        entries["rope.scaling.yarn_log_multiplier"] = ("float32", config.number_of(rope, "mscale_all_dim"))
        entries["attention.temperature_scale"] = ("float32", config.number_of(rope, "llama_4_scaling_beta"))
    return entries


def _hunyuan(config: Config) -> Entries:
    """HunYuan, whose `alpha` scales the base of the rotary frequencies."""
    rope = config.rope()
    if rope["rope_type"] != "dynamic" or rope.get("alpha") is None:
        return {}
    width, alpha = config.head_width, config.number_of(rope, "alpha")
    base = config.number_of(rope, "rope_theta") if "rope_theta" in rope else 10000.0
    if width <= 2 or alpha <= 0:
        raise unsupported("hunyuan-dense", "alpha", alpha, "it makes no base")
    entries: Entries = {
        "rope.freq_base": ("float32", min(base * alpha ** (width / (width - 2)), F32_LIMIT / 2)),
        "rope.scaling.type": ("string", "none"),
        "rope.scaling.factor": ("float32", 1.0),
    }
    if config.context in _HUNYUAN_CONTEXTS:
        length: Typed = ("uint32", 1 << 18)
        return entries | {"context_length": length, "rope.scaling.original_context_length": length}
    return entries


def _cohere2(config: Config) -> Entries:
    check_layer_types("cohere2", config, 4)
    dimensions = int(config.number("rotary_pct", default=1.0) * config.head_width)
    return {
        "attention.sliding_window": ("uint32", config.positive("sliding_window", default=4096)),
        "logit_scale": ("float32", config.number("logit_scale", default=0.0625)),
        "rope.dimension_count": ("uint32", dimensions),
        "rope.scaling.type": ("string", "none"),
    }


def _exaone4(config: Config) -> Entries:
    """EXAONE 4. llama.cpp recognises the larger model, which has sliding windows, by its number of layers."""
    if not config.has("sliding_window"):
        return {}
    if config.layers != _EXAONE_LAYERS:
        why = f"only {_EXAONE_LAYERS} layers have one"
        raise unsupported("exaone4", "sliding_window", config.get("sliding_window"), why)
    check_layer_types("exaone4", config, 4)
    pattern = [kind != "full_attention" for kind in layer_types(_EXAONE_LAYERS, 4)]
    return {
        "attention.sliding_window": ("uint32", config.positive("sliding_window")),
        "attention.sliding_window_pattern": ("bool[]", pattern),
    }


def _ernie(config: Config) -> Entries:
    check_value("ernie4_5", config, "use_bias", False, "its projections have no biases")
    return {}


def _qwen_vl(config: Config) -> Entries:
    """Qwen's vision-language models, whose positions have three axes (M-RoPE), equal for text."""
    entries: Entries = {"rope.dimension_sections": ("int32[]", mrope_sections(config))}
    vision = config.get("vision_config")
    deepstack = vision.get("deepstack_visual_indexes") if isinstance(vision, dict) else None
    if isinstance(deepstack, list):
        entries["n_deepstack_layers"] = ("uint32", len(deepstack))
    return entries


def _qwen_vl_mixture(config: Config) -> Entries:
    return _qwen_vl(config) | mixture("qwen3vlmoe", normed=True)(config)


def _falcon(config: Config, findings: list[Finding]) -> Entries:
    for key, wanted, why in (
        ("alibi", False, "heads are turned"), ("parallel_attn", True, "attention and feed-forward are side by side"),
        ("bias", False, "its projections have no biases"),
    ):  # fmt: skip
        check_value("falcon", config, key, wanted, why)
    kv_heads = falcon_groups(config.values)
    if kv_heads is None or kv_heads < 1:
        raise bad(f"{CONFIG} says no num_kv_heads")
    entries: Entries = {
        "context_length": ("uint32", config.positive(*CONTEXT, default=2048)),
        "tensor_data_layout": ("string", "jploski"),
        "embedding_length": ("uint32", config.width),
        "feed_forward_length": ("uint32", config.positive("ffn_hidden_size", default=4 * config.width)),
        "block_count": ("uint32", config.layers),
        "attention.head_count": ("uint32", config.heads),
        "attention.head_count_kv": ("uint32", kv_heads),
        "attention.layer_norm_epsilon": ("float32", config.number("layer_norm_epsilon", default=1e-5)),
    }
    rope = config.rope()
    if "rope_theta" in rope:
        entries["rope.freq_base"] = ("float32", config.number_of(rope, "rope_theta"))
    return entries


def _smollm3(config: Config) -> Entries:
    rotates = config.items("no_rope_layers")  # 1 for a layer with rotary embeddings, despite the key
    if rotates is not None and rotates != [int((layer + 1) % 4 != 0) for layer in range(config.layers)]:
        raise unsupported("smollm3", "no_rope_layers", rotates, "every fourth layer is not turned")
    return _llama(config)


def _check_scale(arch: str, config: Config, layers: int) -> None:
    """Raise UnsupportedError unless q is scaled by the head width, or in the largest Gemma by width / heads.

    layers: the number of layers of the largest one, by which llama.cpp recognises it.
    """
    scale = config.number("query_pre_attn_scalar", default=256)
    known = config.width // config.heads if config.layers == layers else config.head_width
    if scale != known:
        raise unsupported(arch, "query_pre_attn_scalar", scale, f"it scales by {known}")


def _gemma2(config: Config) -> Entries:
    _check_scale("gemma2", config, 46)
    check_layer_types("gemma2", config, 2)
    return {
        "attn_logit_softcapping": ("float32", config.number("attn_logit_softcapping", default=50.0)),
        "final_logit_softcapping": ("float32", config.number("final_logit_softcapping", default=30.0)),
        "attention.sliding_window": ("uint32", config.positive("sliding_window", default=4096)),
        **_wide_heads(config),
    }


def _gemma3(config: Config) -> Entries:
    _check_scale("gemma3", config, 62)
    if config.has("attn_logit_softcapping"):
        raise unsupported("gemma3", "attn_logit_softcapping", config.get("attn_logit_softcapping"), "it caps no scores")
    entries: Entries = {"attention.sliding_window": ("uint32", config.positive("sliding_window", default=4096))}
    period = config.positive("sliding_window_pattern", "_sliding_window_pattern", default=6)
    stated = config.items("layer_types") or layer_types(config.layers, period)
    if stated != layer_types(config.layers, 6):
        entries["attention.sliding_window_pattern"] = ("bool[]", [kind == "sliding_attention" for kind in stated])
    check_value("gemma3", config, "use_bidirectional_attention", False, "texts are read from their start")
    if config.has("final_logit_softcapping"):
        entries["final_logit_softcapping"] = ("float32", config.number("final_logit_softcapping"))
    return entries | _wide_heads(config)


def _wide_heads(config: Config) -> Entries:
    width = config.positive("head_dim", default=256)
    return {"attention.key_length": ("uint32", width), "attention.value_length": ("uint32", width)}


def _phi3(config: Config) -> Entries:
    dimensions = int(config.partial_rotary(1.0) * config.width) // config.heads
    original = config.positive("original_max_position_embeddings", default=config.context)
    return {
        "rope.dimension_count": ("uint32", dimensions),
        "rope.scaling.original_context_length": ("uint32", original),
        "attention.sliding_window": ("uint32", config.integer("sliding_window", default=0)),
    }


def _phi2(config: Config) -> Entries:
    if config.flag("qk_layernorm"):
        raise unsupported("phi2", "qk_layernorm", True, "q and k have no norms")
    return {"attention.head_count_kv": ("uint32", config.heads), **rotary(config, 0.5)}


def _starcoder(config: Config) -> Entries:
    if not config.flag("multi_query", default=True):
        raise unsupported("starcoder", "multi_query", False, "all heads share one k and v")
    return {"attention.head_count_kv": ("uint32", 1)}


def _bloom(config: Config) -> Entries:
    return {"attention.head_count_kv": ("uint32", config.heads)}


def _gptneox(config: Config) -> Entries:
    return {
        "use_parallel_residual": ("bool", config.flag("use_parallel_residual", default=True)),
        **rotary(config, 0.25),
    }


def _stablelm(config: Config) -> Entries:
    return {"use_parallel_residual": ("bool", config.flag("use_parallel_residual")), **rotary(config, 0.25)}


def _command_r(config: Config) -> Entries:
    return {
        "context_length": ("uint32", config.positive("model_max_length", *CONTEXT)),
        "logit_scale": ("float32", config.number("logit_scale", default=0.0625)),
        "rope.scaling.type": ("string", "none"),
    }


def _glm4(config: Config) -> Entries:
    if "mrope_section" in config.rope():
        raise unsupported("glm4", "mrope_section", config.rope()["mrope_section"], "heads are turned in one direction")
    return rotary(config, 0.5)


def _nemotron(config: Config) -> Entries:
    epsilon = config.number("norm_eps", "layer_norm_eps", default=1e-5)
    return rotary(config, 0.5) | {"attention.layer_norm_epsilon": ("float32", epsilon)}


def _olmo(config: Config) -> Entries:
    entries: Entries = {"attention.layer_norm_epsilon": ("float32", 1e-5)}
    if config.has("clip_qkv"):
        entries["attention.clamp_kqv"] = ("float32", config.number("clip_qkv"))
    return entries


def _olmoe(config: Config) -> Entries:
    if config.has("clip_qkv"):
        raise unsupported("olmoe", "clip_qkv", config.get("clip_qkv"), "it clamps nothing")
    kv_heads = config.positive("num_key_value_heads", default=config.heads)
    if kv_heads != config.heads:
        raise unsupported("olmoe", "num_key_value_heads", kv_heads, "there are as many k and v as q")
    return mixture("olmoe", normed=False)(config)


SPECIFIC_ENTRIES: Mapping[str, Callable[[Config], Entries]] = {
    "arcee": _llama, "bert": bert, "bloom": _bloom, "cohere2": _cohere2, "command-r": _command_r,
    "deepseek2": deepseek2, "ernie4_5": _ernie, "ernie4_5-moe": ernie_mixture, "exaone4": _exaone4,
    "gemma": _wide_heads, "gemma2": _gemma2, "gemma3": _gemma3, "glm4": _glm4, "glm4moe": glm4_mixture,
    "gpt-oss": gpt_oss, "gptneox": _gptneox, "granite": granite, "granitehybrid": granite_hybrid,
    "granitemoe": granite_mixture, "hunyuan-dense": _hunyuan, "lfm2": lfm2, "lfm2moe": lfm2_mixture, "llama": _llama,
    "llama4": llama4, "mistral3": _mistral3, "modern-bert": modern_bert, "nemotron": _nemotron,
    "nomic-bert": nomic_bert, "olmo": _olmo, "olmoe": _olmoe, "phi2": _phi2, "phi3": _phi3,
    "qwen2moe": mixture("qwen2moe", normed=False), "qwen2vl": _qwen_vl,
    "qwen35": delta("qwen35", experts=False, mrope=True), "qwen35moe": delta("qwen35moe", experts=True, mrope=True),
    "qwen3moe": mixture("qwen3moe", normed=True), "qwen3next": delta("qwen3next", experts=True, mrope=False),
    "qwen3vl": _qwen_vl, "qwen3vlmoe": _qwen_vl_mixture, "smollm3": _smollm3, "stablelm": _stablelm,
    "starcoder": _starcoder,
}  # fmt: skip
"""For each architecture, what reads the hyperparameters that only it has. They outrank those that all have."""

COMPLETE_ENTRIES: Mapping[str, Callable[[Config, list[Finding]], Entries]] = {
    "falcon": _falcon, "mamba": mamba, "mamba2": mamba2, "t5": t5, "t5encoder": t5_encoder,
}  # fmt: skip
"""For architectures that have none of the common hyperparameters, what reads all of theirs."""
