"""Language models of today: mixtures of experts, latent attention, Llama's kin."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.arch.real_models import Case, decoder_sizes, hugging, torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Named = tuple[str, Any]


def sizes(*labels: int, **more: Any) -> list[dict[str, Any]]:
    """Some of the sizes of a decoder, none of more than two layers."""
    every = decoder_sizes()
    return [
        {**every[label], "num_hidden_layers": min(2, every[label]["num_hidden_layers"]), **more} for label in labels
    ]


def tree(named: Iterator[Named]) -> Any:
    """A module with parameters of these names; a parameter that stands under two is tied."""
    root = torch.nn.Module()
    for name, value in named:
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        made = value if isinstance(value, torch.nn.Parameter) else torch.nn.Parameter(value, requires_grad=False)
        module.register_parameter(leaf, made)
    return root


def on_disk(case: Case, rename: Callable[[str, Any], Iterator[Named]]) -> Case:
    """The model under the names of its files: `rename` gives what becomes of each tensor."""

    def build() -> Any:
        tensors = case.build().state_dict(keep_vars=True)
        return tree(row for name, value in tensors.items() for row in rename(name, value))

    return replace(case, name=f"{case.name}-disk", build=build)


def each_expert(name: str, value: Any) -> Iterator[Named]:
    """One entry for each expert, gate and up apart: what transformers saves."""
    stem, _, leaf = name.rpartition(".")
    if not stem.endswith("mlp.experts"):
        yield name, value
        return
    for expert, one in enumerate(value):
        halves = {"gate_proj": one[: len(one) // 2], "up_proj": one[len(one) // 2 :]}
        for part, tensor in halves.items() if leaf == "gate_up_proj" else {leaf: one}.items():
            yield f"{stem}.{expert}.{part}.weight", tensor


def qwen_moe() -> list[Case]:
    """Qwen2-MoE and Qwen3-MoE, with dense layers, on disk and in memory."""
    small, large = sizes(0, 1, moe_intermediate_size=12, num_experts=3)
    large |= {"num_hidden_layers": 3, "num_experts": 4}
    tied: dict[str, Any] = {"mlp_only_layers": [2], "tie_word_embeddings": True, "attention_bias": True, "head_dim": 16}
    shared: dict[str, Any] = {"shared_expert_intermediate_size": 20}
    sparse = {**shared, "num_hidden_layers": 2, "decoder_sparse_step": 2}
    config3, config2 = "Qwen3MoeConfig", "Qwen2MoeConfig"
    return [
        on_disk(hugging("qwen_moe", "Qwen3MoeForCausalLM", config3, **large, **tied), each_expert),
        on_disk(hugging("qwen_moe", "Qwen2MoeForSequenceClassification", config2, **small | sparse), each_expert),
        hugging("qwen_moe", "Qwen2MoeModel", config2, **small, **shared, qkv_bias=False),
        hugging("qwen_moe", "Qwen3MoeForQuestionAnswering", config3, **small),
    ]


def mxfp4(name: str, value: Any) -> Iterator[Named]:
    """Experts in blocks of 32 values, outputs first: what is published of gpt-oss."""
    if value.dim() != 3:
        yield name, value
        return
    experts, inputs, outputs = value.shape
    yield f"{name}_blocks", torch.empty(experts, outputs, inputs // 32, 16, dtype=torch.uint8)
    yield f"{name}_scales", torch.empty(experts, outputs, inputs // 32, dtype=torch.uint8)


def gpt_oss() -> list[Case]:
    """gpt-oss, its experts plain and in MXFP4."""
    small, large = sizes(0, 1, num_local_experts=3, head_dim=8)
    blocks = {"hidden_size": 32, "intermediate_size": 64}
    return [
        hugging("gpt_oss", "GptOssForCausalLM", "GptOssConfig", **large, tie_word_embeddings=True),
        on_disk(hugging("gpt_oss", "GptOssForCausalLM", "GptOssConfig", **large | blocks), mxfp4),
        hugging("gpt_oss", "GptOssModel", "GptOssConfig", **small, attention_bias=False),
        hugging("gpt_oss", "GptOssForTokenClassification", "GptOssConfig", **small),
    ]


def phi3() -> list[Case]:
    """Phi-3 and Phi-4."""
    small, large = sizes(0, 1, pad_token_id=0)
    return [
        hugging("phi3", "Phi3ForCausalLM", "Phi3Config", label="0", **small),
        hugging("phi3", "Phi3ForCausalLM", "Phi3Config", label="1", **large, tie_word_embeddings=True),
        hugging("phi3", "Phi3Model", "Phi3Config", **small, head_dim=10),
        hugging("phi3", "Phi3ForTokenClassification", "Phi3Config", **small),
    ]


def further_layer(layers: int) -> Callable[[str, Any], Iterator[Named]]:
    """Experts apart, and the last of `layers` + 1 layers as one that predicts a further token, as in DeepSeek-V3."""

    def rename(name: str, value: Any) -> Iterator[Named]:
        yield from each_expert(name, value)
        if name == f"model.layers.{layers}.input_layernorm.weight":
            stem, width = f"model.layers.{layers}", len(value)
            for norm in ("enorm", "hnorm", "shared_head.norm"):
                yield f"{stem}.{norm}.weight", torch.empty(width)
            yield f"{stem}.eh_proj.weight", torch.empty(width, 2 * width)

    return rename


def scaled(name: str, value: Any) -> Iterator[Named]:
    """Experts apart, and for each block of every weight in a layer a scale."""
    for one, tensor in each_expert(name, value):
        yield one, tensor
        if one.endswith(("proj.weight", "with_mqa.weight")):
            yield f"{one}_scale_inv", torch.empty([-(-size // 128) for size in tensor.shape])


def deepseek() -> list[Case]:
    """DeepSeek-V2 and V3, with and without dense layers, on disk and in memory."""
    small, large = sizes(
        0, 1, moe_intermediate_size=12, n_routed_experts=4, n_group=1, topk_group=1, q_lora_rank=10, kv_lora_rank=14,
        qk_rope_head_dim=6, qk_nope_head_dim=8, v_head_dim=10, num_experts_per_tok=1, first_k_dense_replace=0,
    )  # fmt: skip
    large |= {"num_hidden_layers": 2, "num_key_value_heads": 8, "n_shared_experts": 2, "first_k_dense_replace": 1}
    biased: dict[str, Any] = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    config2, config3 = "DeepseekV2Config", "DeepseekV3Config"
    ahead = hugging("deepseek", "DeepseekV3ForCausalLM", config3, label="mtp", **small | {"num_hidden_layers": 2})
    stated = hugging("deepseek", "DeepseekV3ForCausalLM", config3, **small).config
    wide = {"hidden_size": 136, "moe_intermediate_size": 130, "q_lora_rank": None}
    return [
        replace(on_disk(ahead, further_layer(1)), config=stated),
        on_disk(hugging("deepseek", "DeepseekV3ForCausalLM", config3, label="fp8", **large | wide), scaled),
        on_disk(hugging("deepseek", "DeepseekV2ForCausalLM", config2, **large, **biased), each_expert),
        hugging("deepseek", "DeepseekV2Model", config2, **large | {"q_lora_rank": None}),
        hugging("deepseek", "DeepseekV3ForTokenClassification", config3, **small),
    ]


def olmo2() -> list[Case]:
    """OLMo 2 and 3, with norms of all queries, and EXAONE 4, with norms of each head's."""
    small, large = sizes(0, 1)
    return [
        hugging("olmo2", "Olmo2ForCausalLM", "Olmo2Config", **small),
        hugging("olmo2", "Olmo3ForCausalLM", "Olmo3Config", **large, tie_word_embeddings=True, attention_bias=True),
        hugging("olmo2", "Olmo2Model", "Olmo2Config", **small),
        hugging("olmo2", "Exaone4ForTokenClassification", "Exaone4Config", **small, head_dim=8),
    ]


def llamas() -> list[Case]:
    """What has Llama's names without being one, and the heads of Llama and Mixtral."""
    (small,) = sizes(0)
    kin: list[tuple[str, str, dict[str, Any]]] = [
        ("SmolLM3ForCausalLM", "SmolLM3Config", {"pad_token_id": 0}),
        ("GraniteForCausalLM", "GraniteConfig", {"attention_bias": True}),
        ("SeedOssForCausalLM", "SeedOssConfig", {"head_dim": 10}),
        ("HeliumForCausalLM", "HeliumConfig", {"head_dim": 6, "attention_bias": True}),
        ("CwmForCausalLM", "CwmConfig", {"head_dim": 8}),
        ("Ernie4_5ForCausalLM", "Ernie4_5Config", {"head_dim": 8, "use_bias": True}),
        ("MinistralForCausalLM", "MinistralConfig", {"head_dim": 8}),
        ("Ministral3ForCausalLM", "Ministral3Config", {"head_dim": 8}),
        ("LlamaForCausalLM", "InternLM3Config", {"attention_bias": True, "mlp_bias": True}),
        ("LlamaForCausalLM", "IQuestCoderConfig", {}),
        ("MistralModel", "MistralConfig", {}),
        ("LlamaForQuestionAnswering", "LlamaConfig", {}),
        ("Qwen3ForTokenClassification", "Qwen3Config", {"head_dim": 8}),
    ]
    cases = [
        hugging("llama", name, config, label=config if name == "LlamaForCausalLM" else "", **small, **more)
        for name, config, more in kin
    ]
    for name in ("Model", "ForSequenceClassification", "ForQuestionAnswering"):
        cases.append(hugging("mixtral", f"Mixtral{name}", "MixtralConfig", **small, num_local_experts=3))
    return cases


def llama4() -> list[Case]:
    """Llama 4's text model, with dense layers and without."""
    small, large = sizes(0, 1, num_local_experts=3, head_dim=8, intermediate_size_mlp=20)
    mixed = {"interleave_moe_layer_step": 2, "attention_bias": True, "tie_word_embeddings": True}
    return [
        hugging("llama4", "Llama4ForCausalLM", "Llama4TextConfig", label="0", **small),
        hugging("llama4", "Llama4ForCausalLM", "Llama4TextConfig", label="1", **large, **mixed),
        hugging("llama4", "Llama4TextModel", "Llama4TextConfig", **large, moe_layers=[0]),
    ]


def mllama() -> list[Case]:
    """The text model of Llama 3.2 Vision; the fourth layer of it and the ninth attend to pictures."""
    sizes: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 9, "num_attention_heads": 4,
        "num_key_value_heads": 2, "cross_attention_layers": [3, 8],
        "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    return [hugging("mllama", "MllamaForCausalLM", "MllamaTextConfig", **sizes)]
