"""Qwen3-Next and Qwen3.5, of which most layers attend linearly (a gated delta rule), as edits.dialects.gguf_delta says.

Sources: llama.cpp's conversion/qwen.py (`set_gguf_parameters` of Qwen3NextModel), src/models/qwen35.cpp, qwen3next.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.formats.gguf.hub.config import unlike
from ckptconv.formats.gguf.hub.documents import bad
from ckptconv.formats.gguf.hub.mixtures import mixture
from ckptconv.formats.gguf.hub.shared import check_said, rotary, sections

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_LINEAR, _FULL = "linear_attention", "full_attention"
_SECTIONS = [11, 11, 10]
"""How Qwen3.5 turns heads in three directions where its configuration does not say it."""


def delta(arch: str, *, mixed: bool, pictures: bool) -> Callable[[Config], Entries]:
    """One of them: with experts, and with positions in three directions, or not."""

    def entries(config: Config) -> Entries:
        check_said(arch, config, "attn_output_gate", True, "attention has a gate")
        check_said(arch, config, "attention_bias", False, "its projections have no biases")
        found = mixture(arch, normed=True)(config) if mixed else {}
        if pictures:
            found["rope.dimension_sections"] = ("int32[]", sections(config, _SECTIONS))
        return found | _linear(arch, config) | rotary(config, 0.25)

    return entries


def _linear(arch: str, config: Config) -> Entries:
    keys, values = config.positive("linear_num_key_heads"), config.positive("linear_num_value_heads")
    width = config.positive("linear_key_head_dim")
    if config.positive("linear_value_head_dim") != width:
        raise unlike(arch, "linear_value_head_dim", config.get("linear_value_head_dim"), "it is that of k")
    found: Entries = {
        "ssm.conv_kernel": ("uint32", config.positive("linear_conv_kernel_dim")),
        "ssm.state_size": ("uint32", width),
        "ssm.group_count": ("uint32", keys),
        "ssm.time_step_rank": ("uint32", values),
        "ssm.inner_size": ("uint32", width * values),
        "full_attention_interval": ("uint32", config.positive("full_attention_interval", default=4)),
    }
    kinds = config.items("layer_types")
    if kinds is None:
        return found
    if len(kinds) != config.layers or any(kind not in (_LINEAR, _FULL) for kind in kinds):
        raise bad(f"{CONFIG}: layer_types is {str(kinds)[:80]!r}, and no kind of attention for each layer")
    return found | {"attention.recurrent_layers": ("bool[]", [kind == _LINEAR for kind in kinds])}
