"""Qwen3-Next and Qwen3.5, most of whose layers have linear attention (a gated delta rule).

`ckptconv.edits.dialects.gguf_delta` translates their tensors.

Sources: llama.cpp's conversion/qwen.py (`set_gguf_parameters` of Qwen3NextModel), src/models/qwen35.cpp, qwen3next.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.formats.gguf.hub.config import unsupported
from ckptconv.formats.gguf.hub.documents import bad
from ckptconv.formats.gguf.hub.mixtures import mixture
from ckptconv.formats.gguf.hub.shared import check_value, mrope_sections, rotary

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_LINEAR, _FULL = "linear_attention", "full_attention"
_SECTIONS = [11, 11, 10]
"""Qwen3.5's default for ``mrope_section``."""


def delta(arch: str, *, experts: bool, mrope: bool) -> Callable[[Config], Entries]:
    """What reads the hyperparameters of `arch`, which has experts, and positions with three axes, or not."""

    def read(config: Config) -> Entries:
        check_value(arch, config, "attn_output_gate", True, "attention has a gate")
        check_value(arch, config, "attention_bias", False, "its projections have no biases")
        entries = mixture(arch, normed=True)(config) if experts else {}
        if mrope:
            entries["rope.dimension_sections"] = ("int32[]", mrope_sections(config, _SECTIONS))
        return entries | _linear(arch, config) | rotary(config, 0.25)

    return read


def _linear(arch: str, config: Config) -> Entries:
    keys, values = config.positive("linear_num_key_heads"), config.positive("linear_num_value_heads")
    width = config.positive("linear_key_head_dim")
    if config.positive("linear_value_head_dim") != width:
        raise unsupported(arch, "linear_value_head_dim", config.get("linear_value_head_dim"), "it is that of k")
    entries: Entries = {
        "ssm.conv_kernel": ("uint32", config.positive("linear_conv_kernel_dim")),
        "ssm.state_size": ("uint32", width),
        "ssm.group_count": ("uint32", keys),
        "ssm.time_step_rank": ("uint32", values),
        "ssm.inner_size": ("uint32", width * values),
        "full_attention_interval": ("uint32", config.positive("full_attention_interval", default=4)),
    }
    layer_types = config.items("layer_types")
    if layer_types is None:
        return entries
    if len(layer_types) != config.layers or any(kind not in (_LINEAR, _FULL) for kind in layer_types):
        raise bad(f"{CONFIG}: layer_types is {str(layer_types)[:80]!r}, and no kind of attention for each layer")
    return entries | {"attention.recurrent_layers": ("bool[]", [kind == _LINEAR for kind in layer_types])}
