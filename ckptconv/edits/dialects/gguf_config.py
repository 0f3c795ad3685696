"""What to-gguf takes from a transformers configuration: the class, and numbers that tensor layouts depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.dialects.gguf_table import by_class
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
GROUPS = ("num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_head_kv")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
USED = ("num_experts_per_tok", "num_experts_per_token", "moe_k")
ATTENDING = ("attention", "full_attention")
STATE_GROUPS = ("n_groups", "mamba_n_groups")

_TIED = "tie_word_embeddings"
_TEXTS = ("text_config", "llm_config")
_AROUND = {
    "Idefics3ForConditionalGeneration", "InternVLChatModel", "InternVLForConditionalGeneration",
    "LlavaForConditionalGeneration", "Qwen2AudioForConditionalGeneration", "SmolVLMForConditionalGeneration",
    "VLlama3ForCausalLM", "VoxtralForConditionalGeneration",
}  # fmt: skip
"""Classes around a language model, which may be one of several kinds."""

_LLAMA = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
}  # fmt: skip
_INSIDE: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "llama": ("llama", _LLAMA),
    "mistral": ("llama", {
        **_LLAMA, "intermediate_size": 14_336, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
    }),
    "qwen2": ("qwen2", {
        **_LLAMA, "vocab_size": 151_936, "intermediate_size": 22_016, "max_position_embeddings": 32_768,
    }),
    "qwen3": ("qwen3", {
        **_LLAMA, "vocab_size": 151_936, "intermediate_size": 22_016, "max_position_embeddings": 32_768,
        "head_dim": 128, "num_key_value_heads": 32,
    }),
}  # fmt: skip
"""The language models inside these classes, by the model_type in the configuration: llama.cpp's architecture, and the
defaults of transformers' class, which configurations leave out.
"""


def architecture(config: Mapping[object, object]) -> str:
    """llama.cpp's name for the class that a configuration names. Raises EditError if it names none, UnsupportedError if
    to-gguf does not support it.
    """
    name = class_of(config, "to-gguf")
    kind = str(config.get("model_type"))
    if name in _AROUND:
        if kind in _INSIDE:
            return _INSIDE[kind][0]
        raise UnsupportedError(
            f"--translate to-gguf does not know how llama.cpp has a {kind[:80]!r} in a {name}",
            hint=f"it knows {', '.join(_INSIDE)}",
        )
    if name not in by_class():
        raise UnsupportedError(
            f"--translate to-gguf does not know how llama.cpp has a {name[:80]!r}",
            hint=f"it knows {', '.join(sorted({*by_class(), *_AROUND}))}",
        )
    return by_class()[name]


def class_of(config: Mapping[object, object], translation: str) -> str:
    """The transformers class that a configuration names first. Raises EditError if it names none."""
    classes = config.get("architectures")
    if not isinstance(classes, list) or not classes or not isinstance(classes[0], str):
        raise EditError(
            f"--translate {translation}: no configuration says which transformers class this is",
            hint="it is made from a folder whose config.json lists its architectures",
        )
    return classes[0]


def is_supported(config: Mapping[object, object]) -> bool:
    """Whether a configuration is that of a language model that to-gguf supports."""
    try:
        return bool(architecture(text_config(config)))
    except (EditError, UnsupportedError):
        return False


def written_as(arch: str, config: Mapping[object, object]) -> str:
    """The architecture's name in the file: its own, except for Granite hybrids in which no layer keeps a state."""
    kinds = config.get("layer_types")
    if arch != "granitehybrid" or not isinstance(kinds, list) or any(kind not in ATTENDING for kind in kinds):
        return arch
    return "granitemoe" if whole_number(config, USED) else "granite"


def text_config(config: Mapping[object, object]) -> dict[object, object]:
    """The language model's configuration if it is part of a larger one, which decides whether embeddings are tied."""
    inner = next((config[key] for key in _TEXTS if isinstance(config.get(key), dict)), None)
    if not isinstance(inner, dict):
        return dict(config)
    outer = config.get("architectures")
    has_any_model = isinstance(outer, list) and bool(outer) and outer[0] in _AROUND
    _, defaults = _INSIDE.get(str(inner.get("model_type")), ("", {})) if has_any_model else ("", {})
    architectures = {"architectures": inner.get("architectures") or outer}
    ties = {_TIED: config[_TIED]} if isinstance(config.get(_TIED), bool) else {}
    return {**config, **defaults, **inner, **ties, **architectures}


def falcon_groups(config: Mapping[object, object]) -> int | None:
    """How many key and value heads Falcon has: one, except in newer models. None if the configuration does not say."""
    if config.get("new_decoder_architecture") is True:
        return whole_number(config, GROUPS)
    return 1 if config.get("multi_query", True) is True else whole_number(config, HEADS)


def whole_number(config: Mapping[object, object], keys: Sequence[str]) -> int | None:
    """The value of the first of these keys that has a whole number."""
    for key in keys:
        value = config.get(key)
        if type(value) is int:
            return value
    return None
