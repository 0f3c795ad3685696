"""llama.cpp's hyperparameters from a config.json, in the types that llama.cpp expects.

Here are those that all architectures have. `architectures` has those of single ones, and refuses what llama.cpp does
not implement; `sizes` compares them with the tensors.

Sources: llama.cpp's conversion/ (`set_gguf_parameters`), src/models/ (what each reads), gguf-py's constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.edits.dialects.gguf_config import EXPERTS, GROUPS, USED, written_as
from ckptconv.edits.dialects.gguf_table import architectures
from ckptconv.formats.gguf.hub.architectures import COMPLETE_ENTRIES, SPECIFIC_ENTRIES, check_activation
from ckptconv.formats.gguf.hub.rope import rope_entries
from ckptconv.formats.gguf.hub.sizes import check_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_FEED = ("intermediate_size", "n_inner", "ffn_dim")
_ONLY_EXPERTS = "qwen35moe"
"""All of its layers have experts, and its configurations state no other feed-forward width."""
_RMS = ("rms_norm_eps", "norm_eps")
_EPSILON = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")


def hyperparameters(
    arch: str, config: Config, tensors: Mapping[str, TensorInfo], findings: list[Finding]
) -> dict[str, Typed]:
    """The entries, under keys that start with the architecture's name.

    Raises CorruptFileError, EditError, UnsupportedError.
    """
    check_activation(arch, config)
    if complete := COMPLETE_ENTRIES.get(arch):
        entries = complete(config, findings)
    else:
        entries = _common(config) | rope_entries(arch, config, findings)
        if specific := SPECIFIC_ENTRIES.get(arch):
            entries |= specific(config)
        entries |= _next_token_layers(arch, config, tensors)
        if arch == _ONLY_EXPERTS and not config.has(*_FEED):
            del entries["feed_forward_length"]
    entries["vocab_size"] = ("uint32", config.positive("vocab_size"))
    findings.extend(_window_findings(arch, config, entries))
    check_sizes(arch, entries, tensors)
    name = written_as(arch, config.values)
    return {f"{name}.{key}": value for key, value in entries.items()}


def _common(config: Config) -> Entries:
    entries: Entries = {
        "block_count": ("uint32", config.layers),
        "context_length": ("uint32", config.context),
        "embedding_length": ("uint32", config.width),
        "feed_forward_length": ("uint32", config.integer(*_FEED, default=4 * config.width)),
        "attention.head_count": ("uint32", config.heads),
    }
    if config.has(*GROUPS):
        entries["attention.head_count_kv"] = ("uint32", config.positive(*GROUPS))
    if config.has("head_dim"):
        entries["attention.key_length"] = entries["attention.value_length"] = ("uint32", config.head_width)
    if config.has(*_RMS):
        entries["attention.layer_norm_rms_epsilon"] = ("float32", config.number(*_RMS))
    elif config.has(*_EPSILON):
        entries["attention.layer_norm_epsilon"] = ("float32", config.number(*_EPSILON))
    if config.has(*EXPERTS):
        count = config.integer(*EXPERTS)
        entries["expert_count"] = ("uint32", count)
        entries["expert_used_count"] = ("uint32", config.positive(*USED) if count else 0)
    return entries


def _next_token_layers(arch: str, config: Config, tensors: Mapping[str, TensorInfo]) -> Entries:
    """The number of layers that predict further tokens; 0 if the configuration states some, but they were left out."""
    if architectures()[arch].further != "kept" or not config.has("num_nextn_predict_layers"):
        return {}
    has_layers = any(".nextn." in name for name in tensors)
    count = config.integer("num_nextn_predict_layers") if has_layers else 0
    return {"block_count": ("uint32", config.layers + count), "nextn_predict_layers": ("uint32", count)}


def _window_findings(arch: str, config: Config, entries: Entries) -> Iterator[Finding]:
    """A finding if the model's layers attend to a sliding window, and llama.cpp's to all of the text."""
    used = config.has("sliding_window") and config.flag("use_sliding_window", default=True)
    window = config.integer("sliding_window") if used else 0
    if window and window < config.context and (arch == "phi3" or "attention.sliding_window" not in entries):
        message = f"llama.cpp's {arch} attends to all, not to a window: texts past {window:,} tokens come out otherwise"
        yield Finding("sliding-window", "warning", CONFIG, message)
