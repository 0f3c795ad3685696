"""Language models of 2025 and later: experts beside grouped attention, state spaces, and Llama's further kin."""

from __future__ import annotations

from typing import Any

from tests.arch.families.modern_decoders import sizes
from tests.arch.families.pictures import saved
from tests.arch.real_models import Case, hugging

PADDED: dict[str, Any] = {"pad_token_id": 0}
BIASED: dict[str, Any] = {"attention_bias": True}
TIED: dict[str, Any] = {"tie_word_embeddings": True}


def further_llamas() -> list[Case]:
    """Llama with other norms, without gates, and with two projections in one."""
    small, large = sizes(0, 1, **PADDED)
    rows: list[tuple[str, str, str, dict[str, Any]]] = [
        ("llama", "HunYuanDenseV1ForCausalLM", "HunYuanDenseV1Config", {"head_dim": 8, **BIASED}),
        ("llama", "HunYuanDenseV1ForSequenceClassification", "HunYuanDenseV1Config", {"head_dim": 8}),
        ("llama", "BitNetForCausalLM", "BitNetConfig", TIED),
        ("glm4", "Glm4ForCausalLM", "Glm4Config", {"head_dim": 8, **BIASED}),
        ("glm4", "GlmForTokenClassification", "GlmConfig", {"head_dim": 8}),
        ("nemotron", "NemotronForCausalLM", "NemotronConfig", {"mlp_bias": True, **TIED}),
        ("nemotron", "NemotronForSequenceClassification", "NemotronConfig", {"head_dim": 8, **BIASED}),
        ("nemotron", "ArceeForCausalLM", "ArceeConfig", {"mlp_bias": True, **BIASED}),
        ("nemotron", "ArceeForQuestionAnswering", "ArceeConfig", {}),
        ("nemotron", "ApertusForCausalLM", "ApertusConfig", BIASED),
        ("nemotron", "ApertusModel", "ApertusConfig", {}),
    ]
    return [
        hugging(spec, cls, config, **[small, large][i % 2], **more) for i, (spec, cls, config, more) in enumerate(rows)
    ]


def further_experts() -> list[Case]:
    """Experts beside grouped attention, under the names of files and those of memory by turns."""
    small, large = sizes(0, 1, **PADDED)
    routed: dict[str, Any] = {"moe_intermediate_size": 10, "n_routed_experts": 4, "n_shared_experts": 2}
    latent: dict[str, Any] = {
        **routed, "q_lora_rank": 9, "kv_lora_rank": 7, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 5,
        "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1,
    }  # fmt: skip
    indexed = {"index_n_heads": 2, "index_head_dim": 6}
    ernie: dict[str, Any] = {"moe_intermediate_size": 10, "moe_num_experts": 3, "moe_layer_start_index": 1}
    rows: list[tuple[str, str, str, dict[str, Any]]] = [
        ("glm4_moe", "Glm4MoeForCausalLM", "Glm4MoeConfig", {**routed, "head_dim": 8, "use_qk_norm": True, **BIASED}),
        ("glm4_moe", "Dots1ForCausalLM", "Dots1Config", {**routed, "first_k_dense_replace": 1, **BIASED}),
        ("glm4_moe", "Glm4MoeModel", "Glm4MoeConfig", {**routed, "first_k_dense_replace": 0}),
        (
            "ernie4_5_moe",
            "Ernie4_5_MoeForCausalLM",
            "Ernie4_5_MoeConfig",
            {**ernie, "use_bias": True, "moe_num_shared_experts": 2},
        ),
        ("ernie4_5_moe", "Ernie4_5_MoeModel", "Ernie4_5_MoeConfig", {**ernie, "moe_num_shared_experts": 0}),
        ("qwen_moe", "OlmoeForCausalLM", "OlmoeConfig", {"num_experts": 3, **TIED}),
        ("qwen_moe", "FlexOlmoModel", "FlexOlmoConfig", {"num_experts": 3, **BIASED}),
        ("minimax_m2", "MiniMaxM2ForCausalLM", "MiniMaxM2Config", {"num_local_experts": 3, "head_dim": 10}),
        ("minimax_m2", "MiniMaxM2Model", "MiniMaxM2Config", {"num_local_experts": 3, "head_dim": 8}),
        ("hunyuan_moe", "HunYuanMoEV1ForCausalLM", "HunYuanMoEV1Config", {"num_experts": 3, "head_dim": 8, **BIASED}),
        (
            "hunyuan_moe",
            "HunYuanMoEV1ForSequenceClassification",
            "HunYuanMoEV1Config",
            {"num_experts": 3, "head_dim": 6},
        ),
        ("phimoe", "PhimoeForCausalLM", "PhimoeConfig", {"num_local_experts": 3, "lm_head_bias": True}),
        ("phimoe", "PhimoeForSequenceClassification", "PhimoeConfig", {"num_local_experts": 3, **BIASED}),
        ("deepseek", "DeepseekV32ForCausalLM", "DeepseekV32Config", {**latent, **indexed, "first_k_dense_replace": 1}),
        ("deepseek", "GlmMoeDsaModel", "GlmMoeDsaConfig", {**latent, **indexed, "first_k_dense_replace": 1}),
        ("deepseek", "Glm4MoeLiteForCausalLM", "Glm4MoeLiteConfig", latent),
        ("deepseek", "MiniCPM3ForCausalLM", "MiniCPM3Config", {key: latent[key] for key in list(latent)[3:8]}),
        ("deepseek", "YoutuForCausalLM", "YoutuConfig", {**{key: latent[key] for key in list(latent)[3:8]}, **BIASED}),
        ("glm4_moe", "SolarOpenForCausalLM", "SolarOpenConfig", {**routed, "head_dim": 8, **BIASED}),
        ("glm4_moe", "SolarOpenModel", "SolarOpenConfig", {**routed, "head_dim": 6}),
    ]
    cases = [
        hugging(spec, cls, config, **{**[small, large][i % 2], "num_hidden_layers": 2}, **more)
        for i, (spec, cls, config, more) in enumerate(rows)
    ]
    return [saved(case) if "ForCausalLM" in case.name else case for case in cases]


MAMBA: dict[str, Any] = {"mamba_n_heads": 6, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 5}


def hybrids() -> list[Case]:
    """State spaces and convolutions, alone and beside attention and experts."""
    small, large = sizes(0, 1, num_hidden_layers=2)
    moe: dict[str, Any] = {"num_local_experts": 3}
    shared: dict[str, Any] = {**moe, "shared_intermediate_size": 9}
    mixed = {**moe, **MAMBA, "shared_intermediate_size": 12, "layer_types": ["attention", "mamba"]}
    state: dict[str, Any] = {
        "mamba_num_heads": 6,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "ssm_state_size": 5,
        "head_dim": 8,
    }
    nemotron = {
        **small, **state, "n_routed_experts": 3, "moe_intermediate_size": 10, "moe_shared_expert_intermediate_size": 12,
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "moe", "attention", "mlp"],
    }  # fmt: skip
    jamba: dict[str, Any] = {"num_experts": 3, "mamba_d_state": 5, "mamba_dt_rank": 3}
    jamba |= {"attn_layer_period": 2, "attn_layer_offset": 0, "expert_layer_period": 2, "expert_layer_offset": 1}
    lfm2: dict[str, Any] = {"layer_types": ["conv", "full_attention"]}
    alone: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "num_heads": 6, "head_dim": 8, "n_groups": 2,
        "state_size": 5, "expand": 2,
    }  # fmt: skip
    falcon = {**PADDED, **MAMBA, "mamba_d_ssm": 48, "head_dim": 8}
    normed = {**falcon, "mamba_rms_norm": True, "projectors_bias": True}
    return [
        saved(hugging("granitemoe", "GraniteMoeForCausalLM", "GraniteMoeConfig", **large, **moe, **BIASED)),
        hugging("granitemoe", "GraniteMoeSharedModel", "GraniteMoeSharedConfig", **small, **shared),
        saved(hugging("granitemoe", "GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig", **small, **mixed, **TIED)),
        hugging(
            "granitemoe", "GraniteMoeHybridModel", "GraniteMoeHybridConfig", **small,
            **mixed | {"num_local_experts": 0, "mamba_proj_bias": True, "mamba_conv_bias": False},
        ),
        hugging("bamba", "BambaForCausalLM", "BambaConfig", **small, **MAMBA, attn_layer_indices=[1], **TIED),
        hugging("bamba", "BambaModel", "BambaConfig", **small, **MAMBA, attn_layer_indices=[0], mamba_proj_bias=True),
        hugging("bamba", "FalconH1ForCausalLM", "FalconH1Config", **large, **falcon, mlp_bias=True, **BIASED),
        hugging("bamba", "FalconH1Model", "FalconH1Config", **small, **normed),
        hugging("mamba2", "Mamba2ForCausalLM", "Mamba2Config", **alone, use_bias=True),
        hugging("mamba2", "Mamba2Model", "Mamba2Config", **alone, use_conv_bias=False),
        saved(hugging("nemotron_h", "NemotronHForCausalLM", "NemotronHConfig", **nemotron, moe_latent_size=14)),
        hugging("nemotron_h", "NemotronHModel", "NemotronHConfig", **nemotron, mlp_bias=True, use_bias=True),
        saved(hugging("jamba", "JambaForCausalLM", "JambaConfig", **small, **jamba)),
        hugging("jamba", "JambaForSequenceClassification", "JambaConfig", **small, **jamba, mamba_proj_bias=True),
        hugging("lfm2", "Lfm2ForCausalLM", "Lfm2Config", **large, **lfm2, conv_bias=True, **TIED),
        hugging("lfm2", "Lfm2Model", "Lfm2Config", **small, **lfm2, block_auto_adjust_ff_dim=False),
        saved(
            hugging(
                "lfm2", "Lfm2MoeForCausalLM", "Lfm2MoeConfig", **small, **lfm2, num_experts=3, moe_intermediate_size=10,
                num_dense_layers=1,
            )
        ),
    ]  # fmt: skip
