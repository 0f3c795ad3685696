"""What one architecture of llama.cpp's has besides, and what it takes for granted: its activation, which layers are
turned, how q is scaled. A configuration that says something else is refused by name: the file would load, and compute
something else.

Sources: llama.cpp's conversion/ (`set_gguf_parameters`), src/models/ (what each reads and computes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.edits.dialects.gguf_config import falcon_groups
from ckptconv.formats.gguf.hub.config import CONTEXT, unlike
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
from ckptconv.formats.gguf.hub.shared import check_kinds, check_said, granite, kinds, rotary, sections
from ckptconv.formats.gguf.hub.states import granite_hybrid, lfm2, lfm2_mixture, mamba, mamba2
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
"""Which activations are llama.cpp's; silu for all others. Its GELU is the one of tanh."""

_EXAONE = 64
_STRETCHED = (32 << 10, 256 << 10)
"""Lengths that HunYuan's configurations say, of a model for 262,144 tokens."""


def check_activation(arch: str, config: Config) -> None:
    """Raise UnsupportedError for another one than llama.cpp's."""
    found = config.text("hidden_activation") or config.text("hidden_act", "activation_function", "activation")
    known = _ACTIVATIONS.get(arch, ("silu", "swish"))
    if found and found not in known:
        raise unlike(arch, "hidden_act", found, f"it computes with {known[0]}")


def _llama(config: Config) -> Entries:
    return rotary(config)


def _mistral3(config: Config) -> Entries:
    """Mistral Small 3 and Ministral 3, which has another temperature for longer texts."""
    said = config.rope()
    found = rotary(config)
    if config.text("model_type") == "ministral3":
        if said["rope_type"] != "yarn" or said.get("mscale") != said.get("mscale_all_dim"):
            raise unlike("mistral3", "rope_parameters", said, "they are yarn, with one mscale")
        found["rope.scaling.yarn_log_multiplier"] = ("float32", config.number_of(said, "mscale_all_dim"))
        found["attention.temperature_scale"] = ("float32", config.number_of(said, "llama_4_scaling_beta"))
    return found


def _hunyuan(config: Config) -> Entries:
    """Its frequencies may be stretched by a number of its own, alpha, which makes another base."""
    said = config.rope()
    if said["rope_type"] != "dynamic" or said.get("alpha") is None:
        return {}
    width, alpha = config.head_width, config.number_of(said, "alpha")
    base = config.number_of(said, "rope_theta") if "rope_theta" in said else 10000.0
    if width <= 2 or alpha <= 0:
        raise unlike("hunyuan-dense", "alpha", alpha, "it makes no base")
    made: Entries = {
        "rope.freq_base": ("float32", min(base * alpha ** (width / (width - 2)), F32_LIMIT / 2)),
        "rope.scaling.type": ("string", "none"),
        "rope.scaling.factor": ("float32", 1.0),
    }
    if config.context in _STRETCHED:
        length: Typed = ("uint32", 1 << 18)
        return made | {"context_length": length, "rope.scaling.original_context_length": length}
    return made


def _cohere2(config: Config) -> Entries:
    check_kinds("cohere2", config, 4)
    turned = int(config.number("rotary_pct", default=1.0) * config.head_width)
    return {
        "attention.sliding_window": ("uint32", config.positive("sliding_window", default=4096)),
        "logit_scale": ("float32", config.number("logit_scale", default=0.0625)),
        "rope.dimension_count": ("uint32", turned),
        "rope.scaling.type": ("string", "none"),
    }


def _exaone4(config: Config) -> Entries:
    """llama.cpp knows the larger model, whose layers attend to a window, by the number of its layers."""
    if not config.has("sliding_window"):
        return {}
    if config.layers != _EXAONE:
        raise unlike("exaone4", "sliding_window", config.get("sliding_window"), f"only {_EXAONE} layers have one")
    check_kinds("exaone4", config, 4)
    return {
        "attention.sliding_window": ("uint32", config.positive("sliding_window")),
        "attention.sliding_window_pattern": ("bool[]", [kind != "full_attention" for kind in kinds(_EXAONE, 4)]),
    }


def _ernie(config: Config) -> Entries:
    check_said("ernie4_5", config, "use_bias", False, "its projections have no biases")
    return {}


def _pictures(config: Config) -> Entries:
    """Qwen's with pictures: positions in three directions, which are one of a text."""
    found: Entries = {"rope.dimension_sections": ("int32[]", sections(config))}
    vision = config.get("vision_config")
    deep = vision.get("deepstack_visual_indexes") if isinstance(vision, dict) else None
    return found | ({"n_deepstack_layers": ("uint32", len(deep))} if isinstance(deep, list) else {})


def _mixture_with_pictures(config: Config) -> Entries:
    return _pictures(config) | mixture("qwen3vlmoe", normed=True)(config)


def _falcon(config: Config, findings: list[Finding]) -> Entries:
    for key, wanted, why in (
        ("alibi", False, "heads are turned"), ("parallel_attn", True, "attention and feed-forward are side by side"),
        ("bias", False, "its projections have no biases"),
    ):  # fmt: skip
        check_said("falcon", config, key, wanted, why)
    groups = falcon_groups(config.values)
    if groups is None or groups < 1:
        raise bad(f"{CONFIG} says no num_kv_heads")
    found: Entries = {
        "context_length": ("uint32", config.positive(*CONTEXT, default=2048)),
        "tensor_data_layout": ("string", "jploski"),
        "embedding_length": ("uint32", config.width),
        "feed_forward_length": ("uint32", config.positive("ffn_hidden_size", default=4 * config.width)),
        "block_count": ("uint32", config.layers),
        "attention.head_count": ("uint32", config.heads),
        "attention.head_count_kv": ("uint32", groups),
        "attention.layer_norm_epsilon": ("float32", config.number("layer_norm_epsilon", default=1e-5)),
    }
    said = config.rope()
    return found | (
        {"rope.freq_base": ("float32", config.number_of(said, "rope_theta"))} if "rope_theta" in said else {}
    )


def _smollm3(config: Config) -> Entries:
    turned = config.items("no_rope_layers")
    if turned is not None and turned != [int((layer + 1) % 4 != 0) for layer in range(config.layers)]:
        raise unlike("smollm3", "no_rope_layers", turned, "every fourth layer is not turned")
    return _llama(config)


def _check_scale(arch: str, config: Config, layers: int) -> None:
    """Q is scaled by the width of a head, but in the largest Gemma by another number."""
    scale = config.number("query_pre_attn_scalar", default=256)
    known = config.width // config.heads if config.layers == layers else config.head_width
    if scale != known:
        raise unlike(arch, "query_pre_attn_scalar", scale, f"it scales by {known}")


def _gemma2(config: Config) -> Entries:
    _check_scale("gemma2", config, 46)
    check_kinds("gemma2", config, 2)
    return {
        "attn_logit_softcapping": ("float32", config.number("attn_logit_softcapping", default=50.0)),
        "final_logit_softcapping": ("float32", config.number("final_logit_softcapping", default=30.0)),
        "attention.sliding_window": ("uint32", config.positive("sliding_window", default=4096)),
        **_wide_heads(config),
    }


def _gemma3(config: Config) -> Entries:
    _check_scale("gemma3", config, 62)
    if config.has("attn_logit_softcapping"):
        raise unlike("gemma3", "attn_logit_softcapping", config.get("attn_logit_softcapping"), "it caps no scores")
    entries: Entries = {"attention.sliding_window": ("uint32", config.positive("sliding_window", default=4096))}
    period = config.positive("sliding_window_pattern", "_sliding_window_pattern", default=6)
    said = config.items("layer_types") or kinds(config.layers, period)
    if said != kinds(config.layers, 6):
        entries["attention.sliding_window_pattern"] = ("bool[]", [kind == "sliding_attention" for kind in said])
    check_said("gemma3", config, "use_bidirectional_attention", False, "texts are read from their start")
    if config.has("final_logit_softcapping"):
        entries["final_logit_softcapping"] = ("float32", config.number("final_logit_softcapping"))
    return entries | _wide_heads(config)


def _wide_heads(config: Config) -> Entries:
    width = config.positive("head_dim", default=256)
    return {"attention.key_length": ("uint32", width), "attention.value_length": ("uint32", width)}


def _phi3(config: Config) -> Entries:
    turned = int(config.partial_rotary(1.0) * config.width) // config.heads
    original = config.positive("original_max_position_embeddings", default=config.context)
    return {
        "rope.dimension_count": ("uint32", turned),
        "rope.scaling.original_context_length": ("uint32", original),
        "attention.sliding_window": ("uint32", config.integer("sliding_window", default=0)),
    }


def _phi2(config: Config) -> Entries:
    if config.flag("qk_layernorm"):
        raise unlike("phi2", "qk_layernorm", True, "q and k have no norms")
    return {"attention.head_count_kv": ("uint32", config.heads), **rotary(config, 0.5)}


def _starcoder(config: Config) -> Entries:
    if not config.flag("multi_query", default=True):
        raise unlike("starcoder", "multi_query", False, "all heads share one k and v")
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
    longest = config.positive("model_max_length", *CONTEXT)
    return {
        "context_length": ("uint32", longest),
        "logit_scale": ("float32", config.number("logit_scale", default=0.0625)),
        "rope.scaling.type": ("string", "none"),
    }


def _glm4(config: Config) -> Entries:
    if "mrope_section" in config.rope():
        raise unlike("glm4", "mrope_section", config.rope()["mrope_section"], "heads are turned in one direction")
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
        raise unlike("olmoe", "clip_qkv", config.get("clip_qkv"), "it clamps nothing")
    groups = config.positive("num_key_value_heads", default=config.heads)
    if groups != config.heads:
        raise unlike("olmoe", "num_key_value_heads", groups, "there are as many k and v as q")
    return mixture("olmoe", normed=False)(config)


OWN: Mapping[str, Callable[[Config], Entries]] = {
    "arcee": _llama, "bert": bert, "bloom": _bloom, "cohere2": _cohere2, "command-r": _command_r,
    "deepseek2": deepseek2, "ernie4_5": _ernie, "ernie4_5-moe": ernie_mixture, "exaone4": _exaone4,
    "gemma": _wide_heads, "gemma2": _gemma2, "gemma3": _gemma3, "glm4": _glm4, "glm4moe": glm4_mixture,
    "gpt-oss": gpt_oss, "gptneox": _gptneox, "granite": granite, "granitehybrid": granite_hybrid,
    "granitemoe": granite_mixture, "hunyuan-dense": _hunyuan, "lfm2": lfm2, "lfm2moe": lfm2_mixture, "llama": _llama,
    "llama4": llama4, "mistral3": _mistral3, "modern-bert": modern_bert, "nemotron": _nemotron,
    "nomic-bert": nomic_bert, "olmo": _olmo, "olmoe": _olmoe, "phi2": _phi2, "phi3": _phi3,
    "qwen2moe": mixture("qwen2moe", normed=False), "qwen2vl": _pictures,
    "qwen35": delta("qwen35", mixed=False, pictures=True), "qwen35moe": delta("qwen35moe", mixed=True, pictures=True),
    "qwen3moe": mixture("qwen3moe", normed=True), "qwen3next": delta("qwen3next", mixed=True, pictures=False),
    "qwen3vl": _pictures, "qwen3vlmoe": _mixture_with_pictures, "smollm3": _smollm3, "stablelm": _stablelm,
    "starcoder": _starcoder,
}  # fmt: skip
"""What is asked of each besides."""

WHOLE: Mapping[str, Callable[[Config, list[Finding]], Entries]] = {
    "falcon": _falcon, "mamba": mamba, "mamba2": mamba2, "t5": t5, "t5encoder": t5_encoder,
}  # fmt: skip
"""Those of which nothing is asked as of others: what they say is all there is."""
