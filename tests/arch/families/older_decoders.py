"""Language models from before Llama, and kin of theirs: GPT-NeoX, OPT, BLOOM, Falcon, Phi, GPT-J, GPT-Neo, Mamba …"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.arch.real_models import Case, hugging


def _renamed(case: Case, label: str, parent: str, old: str, new: str) -> Case:
    """The model with a module under another name, as it is on disk."""

    def build() -> Any:
        model = case.build()
        module = model.get_submodule(parent)
        child = getattr(module, old)
        delattr(module, old)
        module.add_module(new, child)
        return model

    return replace(case, name=f"{case.name}-{label}", build=build)


def _sized(layers: int = 1, **more: Any) -> dict[str, Any]:
    keys = {"vocab_size": 53, "hidden_size": 24, "num_hidden_layers": layers, "num_attention_heads": 4}
    return keys | {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0} | more


def gpt_neox() -> list[Case]:
    """GPT-NeoX: its heads, without biases, and with the head's name on disk."""

    def case(name: str, label: str = "", **more: Any) -> Case:
        return hugging("gpt_neox", name, "GPTNeoXConfig", label, **{**_sized(intermediate_size=40), **more})

    tied = case("GPTNeoXForCausalLM", "tied", tie_word_embeddings=True, attention_bias=False)
    return [
        case("GPTNeoXForCausalLM", num_hidden_layers=2),
        _renamed(tied, "disk", "", "lm_head", "embed_out"),
        case("GPTNeoXModel"),
        case("GPTNeoXForSequenceClassification", num_labels=3),
        case("GPTNeoXForQuestionAnswering"),
    ]


def opt() -> list[Case]:
    """OPT: its heads, with a narrow embedding as the one of 350M has, without biases, without affine norms."""

    def case(name: str, label: str = "", **more: Any) -> Case:
        sized = _sized(ffn_dim=40, max_position_embeddings=20)
        return hugging("opt", name, "OPTConfig", label, **{**sized, **more})

    return [
        case("OPTForCausalLM", num_hidden_layers=2),
        case("OPTForCausalLM", "350m", word_embed_proj_dim=16, do_layer_norm_before=False, tie_word_embeddings=False),
        case("OPTModel", layer_norm_elementwise_affine=False),
        case("OPTForSequenceClassification", _remove_final_layer_norm=True, num_labels=3, enable_bias=False),
        case("OPTForQuestionAnswering"),
    ]


def bloom() -> list[Case]:
    """BLOOM and its heads."""

    def case(name: str, label: str = "", **more: Any) -> Case:
        return hugging("bloom", name, "BloomConfig", label, **{**_sized(), **more})

    return [
        case("BloomForCausalLM", num_hidden_layers=2),
        case("BloomForCausalLM", "untied", tie_word_embeddings=False),
        case("BloomModel"),
        case("BloomForSequenceClassification", num_labels=3),
        case("BloomForTokenClassification", num_labels=3),
        case("BloomForQuestionAnswering"),
    ]


def falcon() -> list[Case]:
    """Falcon: the older decoder with one or all key-value heads, the newer one, their norms, and the heads."""

    def case(name: str, label: str = "", **more: Any) -> Case:
        return hugging("falcon", name, "FalconConfig", label, **{**_sized(), **more})

    new = {"new_decoder_architecture": True, "num_kv_heads": 2}
    return [
        case("FalconForCausalLM", num_hidden_layers=2),
        case("FalconForCausalLM", "40b", tie_word_embeddings=False, **new),
        case("FalconModel", "rw", multi_query=False, parallel_attn=False, bias=True, alibi=True),
        case("FalconForSequenceClassification", "11b", num_ln_in_parallel_attn=1, ffn_hidden_size=40, **new),
        case("FalconForQuestionAnswering"),
    ]


def phi() -> list[Case]:
    """Phi: its heads, with grouped key-value heads, with norms of queries and keys."""

    def case(name: str, label: str = "", **more: Any) -> Case:
        return hugging("phi", name, "PhiConfig", label, **{**_sized(intermediate_size=40), **more})

    return [
        case("PhiForCausalLM", num_hidden_layers=2),
        case("PhiForCausalLM", "tied", tie_word_embeddings=True, qk_layernorm=True, num_key_value_heads=2),
        case("PhiModel"),
        case("PhiForSequenceClassification", num_labels=3),
        case("PhiForTokenClassification", num_labels=3),
    ]


def gptj() -> list[Case]:
    """GPT-J and its heads."""

    def case(name: str, label: str = "", **more: Any) -> Case:
        sized = {"vocab_size": 53, "n_embd": 24, "n_layer": 1, "n_head": 4, "rotary_dim": 4, "n_positions": 20}
        ends = {"bos_token_id": 0, "eos_token_id": 0}
        return hugging("gptj", name, "GPTJConfig", label, **{**sized, **ends, **more})

    return [
        case("GPTJForCausalLM", n_layer=2),
        case("GPTJForCausalLM", "tied", tie_word_embeddings=True, n_inner=40),
        case("GPTJModel"),
        case("GPTJForSequenceClassification", num_labels=3),
        case("GPTJForQuestionAnswering"),
    ]


def gpt_neo() -> list[Case]:
    """GPT-Neo and its heads."""

    def case(name: str, label: str = "", **more: Any) -> Case:
        sized = {"vocab_size": 53, "hidden_size": 24, "num_layers": 1, "num_heads": 4, "max_position_embeddings": 20}
        local = {"attention_types": [[["local"], more.get("num_layers", 1)]], "bos_token_id": 0, "eos_token_id": 0}
        return hugging("gpt_neo", name, "GPTNeoConfig", label, **{**sized, **local, **more})

    return [
        case("GPTNeoForCausalLM", num_layers=2),
        case("GPTNeoForCausalLM", "untied", tie_word_embeddings=False, intermediate_size=40),
        case("GPTNeoModel"),
        case("GPTNeoForSequenceClassification", num_labels=3),
        case("GPTNeoForTokenClassification", num_labels=3),
        case("GPTNeoForQuestionAnswering"),
    ]


def mamba() -> list[Case]:
    """Mamba with and without its head, with the embedding's name of mamba_ssm; Falcon Mamba."""

    def case(name: str, label: str = "", **more: Any) -> Case:
        sized = {"vocab_size": 53, "hidden_size": 24, "num_hidden_layers": 1, "state_size": 5}
        config = "FalconMambaConfig" if name.startswith("Falcon") else "MambaConfig"
        return hugging("mamba", name, config, label, **{**sized, **more})

    plain = case("MambaForCausalLM", num_hidden_layers=2)
    return [
        plain,
        _renamed(plain, "ssm", "backbone", "embeddings", "embedding"),
        case("MambaModel", expand=3, time_step_rank=7, conv_kernel=3),
        case("FalconMambaForCausalLM", tie_word_embeddings=False, use_bias=True, use_conv_bias=False),
    ]


def _rotary(**more: Any) -> dict[str, Any]:
    return _sized(intermediate_size=40, num_key_value_heads=2) | more


def starcoder2() -> list[Case]:
    """StarCoder2: its heads, with and without biases."""

    def case(name: str, label: str = "", **more: Any) -> Case:
        return hugging("starcoder2", name, "Starcoder2Config", label, **_rotary(**more))

    return [
        case("Starcoder2ForCausalLM", num_hidden_layers=2),
        case("Starcoder2ForCausalLM", "untied", tie_word_embeddings=False, use_bias=False),
        case("Starcoder2Model"),
        case("Starcoder2ForTokenClassification", num_labels=3),
    ]


def stablelm() -> list[Case]:
    """StableLM: its heads, with biases, with norms of the heads, and with one norm in a layer."""

    def case(name: str, label: str = "", **more: Any) -> Case:
        return hugging("stablelm", name, "StableLmConfig", label, **_rotary(**more))

    return [
        case("StableLmForCausalLM", num_hidden_layers=2),
        case("StableLmForCausalLM", "norms", tie_word_embeddings=True, qk_layernorm=True, use_parallel_residual=True),
        case("StableLmModel", use_qkv_bias=True),
        case("StableLmForSequenceClassification", num_labels=3, use_parallel_residual=True),
    ]


def cohere() -> list[Case]:
    """Cohere and Cohere 2, with and without the head, biases, and norms of queries and keys."""
    return [
        hugging("cohere", "CohereForCausalLM", "CohereConfig", **_rotary(num_hidden_layers=2)),
        hugging("cohere", "CohereModel", "CohereConfig", **_rotary(use_qk_norm=True, attention_bias=True)),
        hugging("cohere", "Cohere2ForCausalLM", "Cohere2Config", **_rotary(tie_word_embeddings=False, head_dim=8)),
        hugging("cohere", "Cohere2Model", "Cohere2Config", **_rotary()),
    ]
