"""Hyperparameters of architectures whose layers keep a state: Mamba, Granite's hybrids, LFM2's convolutions.

Sources: llama.cpp's conversion/ (`set_gguf_parameters` of MambaModel, Mamba2Model, GraniteHybridModel, LFM2Model),
src/models/ (mamba-base.cpp, lfm2.cpp).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.edits.dialects.gguf_config import ATTENDING, STATE_GROUPS
from ckptconv.formats.gguf.hub.config import unsupported
from ckptconv.formats.gguf.hub.mixtures import granite_mixture
from ckptconv.formats.gguf.hub.shared import check_value

if TYPE_CHECKING:
    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_NO_LIMIT = 1 << 20
"""The context length that llama.cpp's converter writes for models without a limit."""

_INFINITE = (math.inf, {"__float__": "Infinity"})
_STATES = ("mamba", "linear_attention")
SIGMOID = 2


def mamba(config: Config, findings: list[Finding]) -> Entries:
    """Mamba and Falcon Mamba."""
    width, inner = config.width, config.positive("intermediate_size", "d_inner", default=2 * config.width)
    if inner != 2 * width:
        raise unsupported("mamba", "intermediate_size", inner, f"it is twice the width, {2 * width}")
    _check_biases("mamba", config, "use_bias", "use_conv_bias")
    epsilon = config.number("layer_norm_epsilon", default=1e-5)
    has_inner_norms = config.text("model_type") == "falcon_mamba"
    inner_epsilon = config.number("mixer_rms_eps", default=1e-6)
    if has_inner_norms and inner_epsilon != epsilon:
        message = f"llama.cpp norms B, C and dt with an epsilon of {epsilon}, and not of {inner_epsilon}"
        findings.append(Finding("epsilon", "warning", CONFIG, message))
    return {
        **_without_attention(config, epsilon),
        "ssm.conv_kernel": ("uint32", config.positive("conv_kernel", "d_conv", default=4)),
        "ssm.inner_size": ("uint32", inner),
        "ssm.state_size": ("uint32", config.positive("state_size", "d_state", default=16)),
        "ssm.time_step_rank": ("uint32", _time_step_rank(config)),
        "ssm.dt_b_c_rms": ("bool", has_inner_norms),
    }


def mamba2(config: Config, findings: list[Finding]) -> Entries:
    """Mamba 2. The configuration states its inner width as a multiple of the width."""
    inner = config.positive("expand", default=2) * config.width
    head = config.positive("head_dim", default=64)
    if inner % head:
        raise unsupported("mamba2", "head_dim", head, f"heads are {inner} wide together")
    _check_biases("mamba2", config, "use_bias", "use_conv_bias")
    _check_limit("mamba2", config)
    return {
        **_without_attention(config, config.number("layer_norm_epsilon", default=1e-5)),
        "ssm.conv_kernel": ("uint32", config.positive("conv_kernel", "d_conv", default=4)),
        "ssm.inner_size": ("uint32", inner),
        "ssm.state_size": ("uint32", config.positive("state_size", "d_state", default=128)),
        "ssm.time_step_rank": ("uint32", inner // head),
        "ssm.group_count": ("uint32", config.positive(*STATE_GROUPS, default=1)),
    }


def _without_attention(config: Config, epsilon: float) -> Entries:
    """The common entries for a model without attention."""
    return {
        "context_length": ("uint32", _NO_LIMIT),
        "embedding_length": ("uint32", config.width),
        "feed_forward_length": ("uint32", 0),
        "attention.head_count": ("uint32", 0),
        "block_count": ("uint32", config.layers),
        "attention.layer_norm_rms_epsilon": ("float32", epsilon),
    }


def _time_step_rank(config: Config) -> int:
    if config.get("time_step_rank") == "auto":
        return -(config.width // -16)
    return config.positive("time_step_rank", "dt_rank", default=-(config.width // -16))


def _check_biases(arch: str, config: Config, projections: str, convolution: str) -> None:
    check_value(arch, config, projections, False, "its projections have no biases")
    check_value(arch, config, convolution, True, "its convolution has a bias")


def _check_limit(arch: str, config: Config) -> None:
    """Raise UnsupportedError for limits to the time step, which llama.cpp does not clamp."""
    limit = config.items("time_step_limit")
    if limit is not None and (len(limit) != 2 or limit[0] != 0 or limit[1] not in _INFINITE):
        raise unsupported(arch, "time_step_limit", limit, "it cuts off no time step")


def granite_hybrid(config: Config) -> Entries:
    """Granite 4: Mamba 2 in most layers, or in none. Only without Mamba layers it has rotary embeddings."""
    kinds = config.items("layer_types") or []
    if any(kind not in (*_STATES, *ATTENDING) for kind in kinds) or len(kinds) != config.layers:
        raise unsupported("granitehybrid", "layer_types", kinds, "each layer is of mamba, or attends")
    has_states = any(kind in _STATES for kind in kinds)
    why = "its layers that attend turn nothing" if has_states else "its heads are turned"
    check_value("granitehybrid", config, "position_embedding_type", "nope" if has_states else "rope", why)
    _check_biases("granitehybrid", config, "mamba_proj_bias", "mamba_conv_bias")
    _check_limit("granitehybrid", config)
    kv_heads = config.positive("num_key_value_heads", default=config.heads)
    entries: Entries = {
        "ssm.conv_kernel": ("uint32", config.positive("mamba_d_conv", default=4)),
        "ssm.state_size": ("uint32", config.positive("mamba_d_state", default=256)),
        "ssm.group_count": ("uint32", config.positive("mamba_n_groups", default=1)),
        "ssm.inner_size": ("uint32", config.positive("mamba_expand", default=2) * config.width),
        "ssm.time_step_rank": ("uint32", config.positive("mamba_n_heads", default=128)),
        "attention.head_count_kv": ("int32[]", [0 if kind in _STATES else kv_heads for kind in kinds]),
        "rope.scaling.finetuned": ("bool", not has_states),
    }
    if has_states:
        entries["context_length"] = ("uint32", _NO_LIMIT)
    return granite_mixture(config) | entries


def lfm2(config: Config) -> Entries:
    """LFM2: short convolutions, and attention in some layers."""
    width = config.positive("block_ff_dim", "intermediate_size")
    if config.flag("block_auto_adjust_ff_dim", default=True):
        width = int(2 * width / 3)
        if config.has("block_ffn_dim_multiplier"):
            width = int(config.number("block_ffn_dim_multiplier") * width)
        step = config.positive("block_multiple_of", default=256)
        width = step * ((width + step - 1) // step)
    return _convolutions("lfm2", config) | {"feed_forward_length": ("uint32", width)}


def lfm2_mixture(config: Config) -> Entries:
    """LFM2 with experts."""
    check_value("lfm2moe", config, "norm_topk_prob", True, "the weights of experts are normed")
    check_value("lfm2moe", config, "routed_scaling_factor", 1.0, "the weights of experts are not scaled")
    check_value("lfm2moe", config, "use_expert_bias", True, "experts are chosen with a bias")
    return {
        **_convolutions("lfm2moe", config),
        "expert_feed_forward_length": ("uint32", config.positive("moe_intermediate_size")),
        "leading_dense_block_count": ("uint32", config.integer("num_dense_layers", default=0)),
        "expert_gating_func": ("uint32", SIGMOID),
    }


def _convolutions(arch: str, config: Config) -> Entries:
    """The entries that LFM2 with and without experts share."""
    check_value(arch, config, "conv_bias", False, "its convolutions have no biases")
    layers, kv_heads = config.layers, config.positive("num_key_value_heads", default=config.heads)
    attending = config.items("full_attn_idxs")
    kinds = config.items("layer_types")
    if kinds is None:
        kinds = ["full_attention" if attending is None or layer in attending else "conv" for layer in range(layers)]
    if not {str(kind) for kind in kinds} <= {"conv", "full_attention"}:
        raise unsupported(arch, "layer_types", kinds, "layers are convolutions, or attend to all")
    return {
        "attention.head_count_kv": ("int32[]", [0 if kind == "conv" else kv_heads for kind in kinds]),
        "shortconv.l_cache": ("uint32", config.positive("conv_L_cache", default=3)),
        "attention.layer_norm_rms_epsilon": ("float32", config.number("norm_eps", default=1e-5)),
    }
