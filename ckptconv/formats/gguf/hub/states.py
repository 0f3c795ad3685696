"""Architectures with layers that keep a state instead of attending: Mamba, Granite's hybrids, LFM2's convolutions.

Sources: llama.cpp's conversion/ (`set_gguf_parameters` of MambaModel, Mamba2Model, GraniteHybridModel, LFM2Model),
src/models/ (mamba-base.cpp, lfm2.cpp).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.edits.dialects.gguf_config import ATTENDING, STATE_GROUPS
from ckptconv.formats.gguf.hub.config import unlike
from ckptconv.formats.gguf.hub.mixtures import granite_mixture
from ckptconv.formats.gguf.hub.shared import check_said

if TYPE_CHECKING:
    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_ENDLESS = 1 << 20
"""The length of texts that llama.cpp's converter says where there is no longest."""

_INFINITE = (math.inf, {"__float__": "Infinity"})
_STATES = ("mamba", "linear_attention")
_SIGMOID = 2


def mamba(config: Config, findings: list[Finding]) -> Entries:
    """Mamba and Falcon Mamba."""
    width, inner = config.width, config.positive("intermediate_size", "d_inner", default=2 * config.width)
    if inner != 2 * width:
        raise unlike("mamba", "intermediate_size", inner, f"it is twice the width, {2 * width}")
    _check_biases("mamba", config, "use_bias", "use_conv_bias")
    epsilon = config.number("layer_norm_epsilon", default=1e-5)
    normed = config.text("model_type") == "falcon_mamba"
    inside = config.number("mixer_rms_eps", default=1e-6)
    if normed and inside != epsilon:
        message = f"llama.cpp norms B, C and dt with an epsilon of {epsilon}, and not of {inside}"
        findings.append(Finding("epsilon", "warning", CONFIG, message))
    return {
        **_alone(config, epsilon),
        "ssm.conv_kernel": ("uint32", config.positive("conv_kernel", "d_conv", default=4)),
        "ssm.inner_size": ("uint32", inner),
        "ssm.state_size": ("uint32", config.positive("state_size", "d_state", default=16)),
        "ssm.time_step_rank": ("uint32", _rank(config)),
        "ssm.dt_b_c_rms": ("bool", normed),
    }


def mamba2(config: Config, findings: list[Finding]) -> Entries:
    """Mamba 2. Its configuration has its width by the expansion."""
    inner = config.positive("expand", default=2) * config.width
    head = config.positive("head_dim", default=64)
    if inner % head:
        raise unlike("mamba2", "head_dim", head, f"heads are {inner} wide together")
    _check_biases("mamba2", config, "use_bias", "use_conv_bias")
    _check_limit("mamba2", config)
    return {
        **_alone(config, config.number("layer_norm_epsilon", default=1e-5)),
        "ssm.conv_kernel": ("uint32", config.positive("conv_kernel", "d_conv", default=4)),
        "ssm.inner_size": ("uint32", inner),
        "ssm.state_size": ("uint32", config.positive("state_size", "d_state", default=128)),
        "ssm.time_step_rank": ("uint32", inner // head),
        "ssm.group_count": ("uint32", config.positive(*STATE_GROUPS, default=1)),
    }


def _alone(config: Config, epsilon: float) -> Entries:
    """What llama.cpp asks for where there is no attention."""
    return {
        "context_length": ("uint32", _ENDLESS),
        "embedding_length": ("uint32", config.width),
        "feed_forward_length": ("uint32", 0),
        "attention.head_count": ("uint32", 0),
        "block_count": ("uint32", config.layers),
        "attention.layer_norm_rms_epsilon": ("float32", epsilon),
    }


def _rank(config: Config) -> int:
    if config.get("time_step_rank") == "auto":
        return -(config.width // -16)
    return config.positive("time_step_rank", "dt_rank", default=-(config.width // -16))


def _check_biases(arch: str, config: Config, projections: str, convolution: str) -> None:
    check_said(arch, config, projections, False, "its projections have no biases")
    check_said(arch, config, convolution, True, "its convolution has a bias")


def _check_limit(arch: str, config: Config) -> None:
    """A time step is not cut off."""
    limit = config.items("time_step_limit")
    if limit is not None and (len(limit) != 2 or limit[0] != 0 or limit[1] not in _INFINITE):
        raise unlike(arch, "time_step_limit", limit, "it cuts off no time step")


def granite_hybrid(config: Config) -> Entries:
    """Granite 4: Mamba 2 in most layers, or in none. Layers that attend turn heads where there is no other kind."""
    kinds = config.items("layer_types") or []
    if any(kind not in (*_STATES, *ATTENDING) for kind in kinds) or len(kinds) != config.layers:
        raise unlike("granitehybrid", "layer_types", kinds, "each layer is of mamba, or attends")
    mixed = any(kind in _STATES for kind in kinds)
    turned = "its layers that attend turn nothing" if mixed else "its heads are turned"
    check_said("granitehybrid", config, "position_embedding_type", "nope" if mixed else "rope", turned)
    _check_biases("granitehybrid", config, "mamba_proj_bias", "mamba_conv_bias")
    _check_limit("granitehybrid", config)
    groups = config.positive("num_key_value_heads", default=config.heads)
    found: Entries = {
        "ssm.conv_kernel": ("uint32", config.positive("mamba_d_conv", default=4)),
        "ssm.state_size": ("uint32", config.positive("mamba_d_state", default=256)),
        "ssm.group_count": ("uint32", config.positive("mamba_n_groups", default=1)),
        "ssm.inner_size": ("uint32", config.positive("mamba_expand", default=2) * config.width),
        "ssm.time_step_rank": ("uint32", config.positive("mamba_n_heads", default=128)),
        "attention.head_count_kv": ("int32[]", [0 if kind in _STATES else groups for kind in kinds]),
        "rope.scaling.finetuned": ("bool", not mixed),
    }
    if mixed:
        found["context_length"] = ("uint32", _ENDLESS)
    return granite_mixture(config) | found


def lfm2(config: Config) -> Entries:
    """LFM2: short convolutions, and some layers that attend."""
    feed = config.positive("block_ff_dim", "intermediate_size")
    if config.flag("block_auto_adjust_ff_dim", default=True):
        feed = int(2 * feed / 3)
        if config.has("block_ffn_dim_multiplier"):
            feed = int(config.number("block_ffn_dim_multiplier") * feed)
        step = config.positive("block_multiple_of", default=256)
        feed = step * ((feed + step - 1) // step)
    return _convolutions("lfm2", config) | {"feed_forward_length": ("uint32", feed)}


def lfm2_mixture(config: Config) -> Entries:
    """LFM2 with experts."""
    check_said("lfm2moe", config, "norm_topk_prob", True, "the weights of experts are normed")
    check_said("lfm2moe", config, "routed_scaling_factor", 1.0, "the weights of experts are not scaled")
    check_said("lfm2moe", config, "use_expert_bias", True, "experts are chosen with a bias")
    return {
        **_convolutions("lfm2moe", config),
        "expert_feed_forward_length": ("uint32", config.positive("moe_intermediate_size")),
        "leading_dense_block_count": ("uint32", config.integer("num_dense_layers", default=0)),
        "expert_gating_func": ("uint32", _SIGMOID),
    }


def _convolutions(arch: str, config: Config) -> Entries:
    check_said(arch, config, "conv_bias", False, "its convolutions have no biases")
    layers, groups = config.layers, config.positive("num_key_value_heads", default=config.heads)
    which = config.items("full_attn_idxs")
    kinds = config.items("layer_types")
    if kinds is None:
        kinds = ["full_attention" if which is None or layer in which else "conv" for layer in range(layers)]
    if not {str(kind) for kind in kinds} <= {"conv", "full_attention"}:
        raise unlike(arch, "layer_types", kinds, "layers are convolutions, or attend to all")
    return {
        "attention.head_count_kv": ("int32[]", [0 if kind == "conv" else groups for kind in kinds]),
        "shortconv.l_cache": ("uint32", config.positive("conv_L_cache", default=3)),
        "attention.layer_norm_rms_epsilon": ("float32", config.number("norm_eps", default=1e-5)),
    }
