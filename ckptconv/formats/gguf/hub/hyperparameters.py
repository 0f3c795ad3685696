"""A configuration as llama.cpp's hyperparameters, each of the type with which llama.cpp asks for it.

What all architectures say alike is in `_common`; what one has besides, in a function of its own below. What llama.cpp
takes for granted of an architecture (its activation, which layers are turned, how q is scaled) is compared with the
configuration, and another value refused by name: the file would load, and compute something else. What the
configuration says of sizes is compared with the tensors.

Sources: llama.cpp's conversion/ (`set_gguf_parameters`), src/models/ (what each reads and computes), gguf-py's
constants.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.errors import EditError, UnsupportedError
from ckptconv.formats.gguf.hub.config import CONFIG
from ckptconv.formats.gguf.hub.documents import bad
from ckptconv.formats.gguf.hub.rope import rope_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_CONTEXT = ("max_position_embeddings", "n_ctx", "n_positions", "seq_length", "max_sequence_length")
_FEED = ("intermediate_size", "n_inner", "ffn_dim")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_USED = ("num_experts_per_tok", "num_experts_per_token")
_EPSILON = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")

_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh_python")
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "bert": _GELUS, "bloom": _GELUS, "gemma": _GELUS, "gemma2": _GELUS, "gemma3": _GELUS, "gpt2": _GELUS,
    "gptneox": _GELUS, "nemotron": ("relu2",), "phi2": _GELUS, "starcoder": _GELUS, "starcoder2": _GELUS,
}  # fmt: skip
"""Which activations are llama.cpp's; silu for all others. Its GELU is the one of tanh."""

_BLOCK = re.compile(r"(?:enc\.|dec\.)?blk\.([0-9]+)\.")


def hyperparameters(
    arch: str, config: Config, tensors: Mapping[str, TensorInfo], findings: list[Finding]
) -> dict[str, Typed]:
    """The entries under the architecture's name. Raises CorruptFileError, EditError, UnsupportedError."""
    _check_activation(arch, config)
    entries = _common(config) | rope_entries(arch, config, findings)
    if more := _OF.get(arch):
        entries |= more(config)
    entries["vocab_size"] = ("uint32", config.positive("vocab_size"))
    findings.extend(_windows(arch, config, entries))
    _check_tensors(entries, tensors)
    return {f"{arch}.{key}": value for key, value in entries.items()}


def _common(config: Config) -> Entries:
    feed = config.integer(*_FEED, default=4 * config.width)
    entries: Entries = {
        "block_count": ("uint32", config.layers),
        "context_length": ("uint32", config.positive(*_CONTEXT)),
        "embedding_length": ("uint32", config.width),
        "feed_forward_length": ("uint32", feed),
        "attention.head_count": ("uint32", config.heads),
    }
    if config.has("num_key_value_heads", "n_kv_heads"):
        entries["attention.head_count_kv"] = ("uint32", config.positive("num_key_value_heads", "n_kv_heads"))
    if config.has("head_dim"):
        entries["attention.key_length"] = entries["attention.value_length"] = ("uint32", config.head_width)
    if config.has("rms_norm_eps"):
        entries["attention.layer_norm_rms_epsilon"] = ("float32", config.number("rms_norm_eps"))
    elif config.has(*_EPSILON):
        entries["attention.layer_norm_epsilon"] = ("float32", config.number(*_EPSILON))
    if config.has(*_EXPERTS):
        entries["expert_count"] = ("uint32", config.positive(*_EXPERTS))
        entries["expert_used_count"] = ("uint32", config.positive(*_USED))
    return entries


def _windows(arch: str, config: Config, entries: Entries) -> Iterator[Finding]:
    """A word where layers attend to a window of the text, and llama.cpp's to all of it."""
    used = config.has("sliding_window") and config.flag("use_sliding_window", default=True)
    window = config.integer("sliding_window") if used else 0
    if window and window < config.positive(*_CONTEXT) and (arch == "phi3" or "attention.sliding_window" not in entries):
        message = f"llama.cpp's {arch} attends to all, not to a window: texts past {window:,} tokens come out otherwise"
        yield Finding("sliding-window", "warning", CONFIG, message)


def _check_activation(arch: str, config: Config) -> None:
    found = config.text("hidden_activation") or config.text("hidden_act", "activation_function")
    known = _ACTIVATIONS.get(arch, ("silu", "swish"))
    if found and found not in known:
        raise unlike(arch, "hidden_act", found, f"it computes with {known[0]}")


def _check_tensors(entries: Entries, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise EditError where the configuration is another model's."""
    embeddings = tensors.get("token_embd.weight")
    if embeddings is None:
        raise EditError("--translate to-gguf: there are no embeddings (token_embd.weight)", hint="is a shard missing?")
    layers = {int(found[1]) for name in tensors if (found := _BLOCK.match(name))}
    blocks, width = entries["block_count"][1], entries["embedding_length"][1]
    if len(embeddings.shape) != 2 or embeddings.shape[1] != width:
        raise EditError(
            f"--translate to-gguf: {CONFIG} says a width of {width}, and the embeddings are {list(embeddings.shape)}",
            hint="it may be another model's",
        )
    if layers != set(range(len(layers))) or len(layers) != blocks:
        raise EditError(
            f"--translate to-gguf: {CONFIG} says {blocks} layers, and the tensors have {len(layers)}",
            hint="it may be another model's, or a shard is missing",
        )


def unlike(arch: str, key: str, value: object, why: str) -> UnsupportedError:
    """The error for what llama.cpp does not compute."""
    return UnsupportedError(
        f"--translate to-gguf: llama.cpp's {arch} has no {key} {str(value)[:60]!r}: {why}",
        hint="the file would load, and compute something else",
    )


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
    original = config.positive("original_max_position_embeddings", default=config.positive(*_CONTEXT))
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
    longest = config.positive("model_max_length", *_CONTEXT)
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


_OF: Mapping[str, Callable[[Config], Entries]] = {
    "bert": _bert, "bloom": _bloom, "command-r": _command_r, "gemma": _wide_heads, "gemma2": _gemma2,
    "gemma3": _gemma3, "gptneox": _gptneox, "granite": _granite, "llama": _llama, "nemotron": _nemotron, "olmo": _olmo,
    "olmoe": _olmoe, "phi2": _phi2, "phi3": _phi3, "qwen2moe": _mixture("qwen2moe", normed=False),
    "qwen3moe": _mixture("qwen3moe", normed=True), "smollm3": _smollm3, "stablelm": _stablelm,
    "starcoder": _starcoder,
}  # fmt: skip

POOLING = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2, "pooling_mode_lasttoken": 3}
"""``llama_pooling_type``, by the keys of sentence-transformers."""


def token_types(arch: str, config: Config) -> dict[str, Typed]:
    """How many kinds of tokens BERT tells apart: it is the tokenizer's in llama.cpp, whatever the tokenizer."""
    count: Typed = ("uint32", config.integer("type_vocab_size", default=1))
    return {"tokenizer.ggml.token_type_count": count} if arch == "bert" else {}


def pooling(arch: str, document: Mapping[str, object] | None) -> dict[str, Typed]:
    """How the vectors of a sentence's tokens become one, as sentence-transformers says it beside the model."""
    if document is None:
        return {}
    mode = {"mean": 1, "cls": 2, "lasttoken": 3}.get(str(document.get("pooling_mode")))
    kind = mode or next((number for key, number in POOLING.items() if document.get(key) is True), None)
    if kind is None:
        raise bad("the pooling is none of mean, cls and lasttoken, which are llama.cpp's")
    return {f"{arch}.pooling_type": ("uint32", kind)}
