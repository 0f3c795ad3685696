"""What one architecture of llama.cpp's has besides, and what it takes for granted: its activation, which layers are
turned, how q is scaled. A configuration that says something else is refused by name: the file would load, and compute
something else.

Sources: llama.cpp's conversion/ (`set_gguf_parameters`), src/models/ (what each reads and computes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.hub.config import CONTEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh_python")
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "bert": _GELUS, "bloom": _GELUS, "gemma": _GELUS, "gemma2": _GELUS, "gemma3": _GELUS, "gpt2": _GELUS,
    "gptneox": _GELUS, "nemotron": ("relu2",), "phi2": _GELUS, "starcoder": _GELUS, "starcoder2": _GELUS,
}  # fmt: skip
"""Which activations are llama.cpp's; silu for all others. Its GELU is the one of tanh."""


def unlike(arch: str, key: str, value: object, why: str) -> UnsupportedError:
    """The error for what llama.cpp does not compute."""
    return UnsupportedError(
        f"--translate to-gguf: llama.cpp's {arch} has no {key} {str(value)[:60]!r}: {why}",
        hint="the file would load, and compute something else",
    )


def check_activation(arch: str, config: Config) -> None:
    """Raise UnsupportedError for another one than llama.cpp's."""
    found = config.text("hidden_activation") or config.text("hidden_act", "activation_function")
    known = _ACTIVATIONS.get(arch, ("silu", "swish"))
    if found and found not in known:
        raise unlike(arch, "hidden_act", found, f"it computes with {known[0]}")


def _rotary(config: Config, part: float = 1.0) -> Entries:
    return {"rope.dimension_count": ("uint32", int(config.partial_rotary(part) * config.head_width))}


def _llama(config: Config) -> Entries:
    return _rotary(config)


def _granite(config: Config) -> Entries:
    if config.head_width != config.width // config.heads:
        raise unlike("granite", "head_dim", config.head_width, "heads are as wide as all of them by their number")
    keys = {
        "attention_multiplier": "attention.scale", "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale", "logits_scaling": "logit_scale",
    }  # fmt: skip
    found: Entries = {new: ("float32", config.number(key)) for key, new in keys.items() if config.has(key)}
    return found | _llama(config)


def _smollm3(config: Config) -> Entries:
    turned = config.items("no_rope_layers")
    if turned is not None and turned != [int((layer + 1) % 4 != 0) for layer in range(config.layers)]:
        raise unlike("smollm3", "no_rope_layers", turned, "every fourth layer is not turned")
    return _llama(config)


def _mixture(arch: str, *, normed: bool) -> Callable[[Config], Entries]:
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


def _check_scale(arch: str, config: Config, layers: int) -> None:
    """Q is scaled by the width of a head, but in the largest Gemma by another number."""
    scale = config.number("query_pre_attn_scalar", default=256)
    known = config.width // config.heads if config.layers == layers else config.head_width
    if scale != known:
        raise unlike(arch, "query_pre_attn_scalar", scale, f"it scales by {known}")


def _gemma2(config: Config) -> Entries:
    _check_scale("gemma2", config, 46)
    kinds = config.items("layer_types")
    if kinds is not None and kinds != _kinds(config.layers, 2):
        raise unlike("gemma2", "layer_types", kinds, "every second layer attends to all")
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
    kinds = config.items("layer_types")
    period = config.positive("sliding_window_pattern", "_sliding_window_pattern", default=6)
    kinds = _kinds(config.layers, period) if kinds is None else kinds
    if kinds != _kinds(config.layers, 6):
        entries["attention.sliding_window_pattern"] = ("bool[]", [kind == "sliding_attention" for kind in kinds])
    if config.has("final_logit_softcapping"):
        entries["final_logit_softcapping"] = ("float32", config.number("final_logit_softcapping"))
    return entries | _wide_heads(config)


def _wide_heads(config: Config) -> Entries:
    width = config.positive("head_dim", default=256)
    return {"attention.key_length": ("uint32", width), "attention.value_length": ("uint32", width)}


def _kinds(layers: int, period: int) -> list[str]:
    return ["sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(layers)]


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
    return {"attention.head_count_kv": ("uint32", config.heads), **_rotary(config, 0.5)}


def _starcoder(config: Config) -> Entries:
    if not config.flag("multi_query", default=True):
        raise unlike("starcoder", "multi_query", False, "all heads share one k and v")
    return {"attention.head_count_kv": ("uint32", 1)}


def _bloom(config: Config) -> Entries:
    return {"attention.head_count_kv": ("uint32", config.heads)}


def _gptneox(config: Config) -> Entries:
    return {
        "use_parallel_residual": ("bool", config.flag("use_parallel_residual", default=True)),
        **_rotary(config, 0.25),
    }


def _stablelm(config: Config) -> Entries:
    return {"use_parallel_residual": ("bool", config.flag("use_parallel_residual")), **_rotary(config, 0.25)}


def _command_r(config: Config) -> Entries:
    longest = config.positive("model_max_length", *CONTEXT)
    return {
        "context_length": ("uint32", longest),
        "logit_scale": ("float32", config.number("logit_scale", default=0.0625)),
        "rope.scaling.type": ("string", "none"),
    }


def _nemotron(config: Config) -> Entries:
    return _rotary(config, 0.5)


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
    return _mixture("olmoe", normed=False)(config)


def _bert(config: Config) -> Entries:
    if config.text("position_embedding_type", default="absolute") != "absolute":
        raise unlike("bert", "position_embedding_type", config.get("position_embedding_type"), "they are absolute")
    if config.flag("is_decoder"):
        raise unlike("bert", "is_decoder", True, "it is an encoder")
    return {"attention.causal": ("bool", False)}


OWN: Mapping[str, Callable[[Config], Entries]] = {
    "bert": _bert, "bloom": _bloom, "command-r": _command_r, "gemma": _wide_heads, "gemma2": _gemma2,
    "gemma3": _gemma3, "gptneox": _gptneox, "granite": _granite, "llama": _llama, "nemotron": _nemotron, "olmo": _olmo,
    "olmoe": _olmoe, "phi2": _phi2, "phi3": _phi3, "qwen2moe": _mixture("qwen2moe", normed=False),
    "qwen3moe": _mixture("qwen3moe", normed=True), "smollm3": _smollm3, "stablelm": _stablelm,
    "starcoder": _starcoder,
}  # fmt: skip
"""What is asked of each besides."""
