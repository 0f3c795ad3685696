"""What of a config.json is no mere other name of an entry, by architecture: `hub.architectures`, the other way.

Each function adds to the configuration that the table made. What llama.cpp tells by the number of layers is told so
here too; what it tells by the tensors that are there, by these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.formats.gguf.hub.recurrent import SIGMOID
from ckptconv.formats.gguf.hub.shared import layer_types
from ckptconv.formats.gguf.to_hub.said import bad, shortest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.formats.gguf.to_hub.said import Said

    Values = dict[str, Any]

_LARGEST = {"gemma2": 46, "gemma3": 62}
"""The layers of the largest Gemmas, which scale q by the width of a head that all of them would have together."""


def _named(config: Values, name: str, model_type: str) -> None:
    config["architectures"], config["model_type"] = [name], model_type


def _llama(said: Said, config: Values) -> None:
    """Mixtral, if it has experts."""
    count = said.get("expert_count")
    if count:
        _named(config, "MixtralForCausalLM", "mixtral")
        config |= {"num_local_experts": count, "num_experts_per_tok": said.get("expert_used_count")}
        del config["mlp_bias"], config["attention_bias"]


def _mistral3(said: Said, config: Values) -> None:
    """Ministral 3, if longer texts have another temperature; else Mistral Small 3, which is Mistral."""
    beta = said.get("attention.temperature_scale")
    if beta is None:
        config["sliding_window"] = None
        return
    _named(config, "Ministral3ForCausalLM", "ministral3")
    scale = said.get("rope.scaling.yarn_log_multiplier")
    rope = config.pop("rope_scaling", {}) | {"rope_theta": config.pop("rope_theta"), "llama_4_scaling_beta": beta}
    config["rope_parameters"] = rope | {"type": "yarn", "mscale": scale, "mscale_all_dim": scale}


def _deepseek2(said: Said, config: Values) -> None:
    """DeepSeek V3, if experts are scored by a sigmoid; else V2. Older files have k and v in one, for all heads."""
    if said.get("attention.key_length_mla") is None:
        said.idle |= {"attention.key_length", "attention.value_length", "attention.head_count_kv"}
        config["v_head_dim"] = said.positive("attention.value_length")
    width = said.positive("attention.key_length_mla", said.positive("attention.key_length"))
    config["qk_nope_head_dim"] = width - said.positive("rope.dimension_count")
    said.implied("attention.value_length", "attention.head_count_kv")
    config["num_key_value_heads"] = said.heads
    scores = said.get("expert_gating_func")
    if scores == SIGMOID:
        _named(config, "DeepseekV3ForCausalLM", "deepseek_v3")
        config |= {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
    else:
        grouped = config["n_group"] != 1
        config["topk_method"] = "group_limited_greedy" if grouped else "greedy"
        config.setdefault("norm_topk_prob", False)
    if said.get("rope.scaling.yarn_log_multiplier") is not None and "rope_scaling" in config:
        scale = shortest(10 * said.number("rope.scaling.yarn_log_multiplier"))
        config["rope_scaling"] |= {"mscale": scale, "mscale_all_dim": scale}


def _ernie_mixture(said: Said, config: Values) -> None:
    said.implied("expert_shared_feed_forward_length")
    config["moe_layer_end_index"] = said.layers - 1


def _exaone4(said: Said, config: Values) -> None:
    window = config.get("sliding_window")
    config["sliding_window"] = window or None
    config["layer_types"] = layer_types(said.layers, 4) if window else ["full_attention"] * said.layers
    said.implied("attention.sliding_window_pattern")


def _falcon(said: Said, config: Values) -> None:
    """A newer Falcon has more than one head of k and v; with one norm for both, or one each."""
    groups = said.positive("attention.head_count_kv", said.heads)
    config |= {"new_decoder_architecture": groups > 1, "multi_query": True, "num_kv_heads": groups}
    if groups > 1:
        config["num_ln_in_parallel_attn"] = 2 if said.has_part("attn_norm_2.weight") else 1


def _gemma_scale(said: Said, config: Values) -> None:
    largest = said.layers == _LARGEST[said.arch]
    config["query_pre_attn_scalar"] = said.width // said.heads if largest else said.head_width


def _gemma2(said: Said, config: Values) -> None:
    _gemma_scale(said, config)
    config["layer_types"] = layer_types(said.layers, 2)


def _gemma3(said: Said, config: Values) -> None:
    _gemma_scale(said, config)
    config["layer_types"] = layer_types(said.layers, 6)
    if said.get("attention.sliding_window_pattern") is not None:
        slides = said.by_layer("attention.sliding_window_pattern")
        config["layer_types"] = ["sliding_attention" if slide else "full_attention" for slide in slides]


def _glm4_mixture(said: Said, config: Values) -> None:
    """GLM 4.5, whose further layers llama.cpp counts along."""
    further = said.whole("nextn_predict_layers", 0)
    if further >= said.layers:
        raise bad(f"{said.key('nextn_predict_layers')} is {further}, of {said.layers} layers")
    config["num_hidden_layers"] = said.layers - further
    said.implied("expert_gating_func")


def _gpt_oss(said: Said, config: Values) -> None:
    """gpt-oss, whose yarn does not round where it begins and ends; llama.cpp's does."""
    said.implied("feed_forward_length")
    config["layer_types"] = layer_types(said.layers, 2)
    if config.get("rope_scaling", {}).get("rope_type") == "yarn":
        config["rope_scaling"]["truncate"] = False
        said.known.append("rope_scaling's truncate = false")


def _gpt2(said: Said, config: Values) -> None:
    config["n_ctx"] = said.positive("context_length")


def _granite_mixture(said: Said, config: Values) -> None:
    shared = said.get("expert_shared_feed_forward_length")
    if shared:
        _named(config, "GraniteMoeSharedForCausalLM", "granitemoeshared")
        config["shared_intermediate_size"] = shared


def _granite_hybrid(said: Said, config: Values) -> None:
    inner, states = said.positive("ssm.inner_size"), said.positive("ssm.time_step_rank")
    mambas = said.layers_with("ssm_in.weight")
    config |= {
        "mamba_expand": inner // said.width, "mamba_d_head": inner // states,
        "layer_types": ["mamba" if layer in mambas else "attention" for layer in range(said.layers)],
    }  # fmt: skip
    config["num_key_value_heads"] = _most_heads(said)
    said.implied("rope.scaling.finetuned", "rope.dimension_count")


def _token_types(said: Said, config: Values) -> None:
    config["type_vocab_size"] = said.rows_of("token_types.weight")


def _most_heads(said: Said) -> int:
    """The number of k and v heads in the layers that attend."""
    counts = said.by_layer("attention.head_count_kv")
    numbers = [count for count in counts if type(count) is int]
    if len(numbers) < len(counts):
        raise bad(f"{said.key('attention.head_count_kv')} has items that are no numbers")
    return max(numbers)


def _hunyuan(said: Said, config: Values) -> None:
    """The scaled base is in the file, not the base and `alpha`: it computes the same."""
    said.implied("rope.scaling.original_context_length")


def _convolutions(said: Said, config: Values) -> None:
    short = said.layers_with("shortconv.conv.weight")
    config["num_key_value_heads"] = _most_heads(said)
    config["layer_types"] = ["conv" if layer in short else "full_attention" for layer in range(said.layers)]
    said.implied("expert_gating_func")


def _llama4(said: Said, config: Values) -> None:
    config["use_qk_norm"] = config.get("num_local_experts") != 128
    config["layer_types"] = layer_types(said.layers, 4, "chunked_attention")
    config["no_rope_layers"] = [int((layer + 1) % 4 != 0) for layer in range(said.layers)]


def _mamba(said: Said, config: Values) -> None:
    if said.get("ssm.dt_b_c_rms") is True:
        _named(config, "FalconMambaForCausalLM", "falcon_mamba")


def _mamba2(said: Said, config: Values) -> None:
    inner = said.positive("ssm.inner_size")
    config |= {"expand": inner // said.width, "head_dim": inner // said.positive("ssm.time_step_rank")}


def _modern_bert(said: Said, config: Values) -> None:
    said.implied("attention.layer_norm_rms_epsilon")
    period = said.positive("attention.sliding_window_pattern", 3)
    kinds = ["sliding_attention" if layer % period else "full_attention" for layer in range(said.layers)]
    config["layer_types"] = kinds


def _nemotron(said: Said, config: Values) -> None:
    said.implied("attention.layer_norm_rms_epsilon")


def _phi2(said: Said, config: Values) -> None:
    """llama.cpp's converter writes four times the width, whatever the model has; it counts what the tensor has."""
    config["intermediate_size"] = said.rows_of("blk.0.ffn_up.weight")


def _phi3(said: Said, config: Values) -> None:
    config["sliding_window"] = said.get("attention.sliding_window") or None


def _linear(said: Said, config: Values) -> None:
    """Qwen3-Next and Qwen3.5."""
    config["linear_value_head_dim"] = said.positive("ssm.inner_size") // said.positive("ssm.time_step_rank")
    states = said.layers_with("ssm_out.weight")
    kinds = ["linear_attention" if layer in states else "full_attention" for layer in range(said.layers)]
    config["layer_types"] = kinds
    config["full_attention_interval"] = said.positive("full_attention_interval", 4)
    said.implied("attention.recurrent_layers")
    sections = said.get("rope.dimension_sections")
    if isinstance(sections, list) and "rope_parameters" in config:
        config["rope_parameters"] |= {"mrope_interleaved": True, "mrope_section": sections[:3]}


def _t5(said: Said, config: Values) -> None:
    """T5, or umT5, each layer of which has a bias for positions.

    Only the first T5, which has no gates, scales its output.
    """
    said.implied("attention.layer_norm_epsilon", "attention.value_length")
    gated = "enc.blk.0.ffn_gate.weight" in said.tensors
    config["feed_forward_proj"] = "gated-gelu" if gated else "relu"
    config["tie_word_embeddings"] = said.is_tied
    if said.arch != "t5":
        return
    if said.is_tied and gated:
        config["scale_decoder_outputs"] = False
    if "enc.blk.1.attn_rel_b.weight" in said.tensors:
        _named(config, "UMT5ForConditionalGeneration", "umt5")


SPECIFIC: Mapping[str, Callable[[Said, dict[str, Any]], None]] = {
    "bert": _token_types, "deepseek2": _deepseek2, "ernie4_5-moe": _ernie_mixture, "exaone4": _exaone4,
    "falcon": _falcon, "gemma2": _gemma2, "gemma3": _gemma3, "glm4moe": _glm4_mixture, "gpt-oss": _gpt_oss,
    "gpt2": _gpt2, "granitehybrid": _granite_hybrid, "granitemoe": _granite_mixture, "hunyuan-dense": _hunyuan,
    "lfm2": _convolutions, "lfm2moe": _convolutions, "llama": _llama, "llama4": _llama4, "mamba": _mamba,
    "mamba2": _mamba2, "mistral3": _mistral3, "modern-bert": _modern_bert, "nemotron": _nemotron,
    "nomic-bert": _token_types, "phi2": _phi2, "phi3": _phi3, "qwen35": _linear, "qwen35moe": _linear,
    "qwen3next": _linear, "t5": _t5, "t5encoder": _t5,
}  # fmt: skip
"""For each architecture, what adds to the configuration that the table makes."""
