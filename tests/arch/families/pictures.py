"""Language models that see pictures: a tower of its own or of another family, a projector, a decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptconv.arch.huggingface import disk_state
from tests.arch.families.modern_decoders import Named, on_disk, sizes, tree
from tests.arch.real_models import Case, hugging

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def saved(case: Case) -> Case:
    """The model under the names that ``save_pretrained`` writes."""

    def build() -> Any:
        return tree(iter(disk_state(case.build()).items()))

    return replace(case, name=f"{case.name}-disk", build=build)


def described(
    spec: str, class_name: str, config: str, text: dict[str, Any], vision: dict[str, Any], **more: Any
) -> Case:
    """A model whose configuration has one of its text model and one of its tower."""
    return hugging(spec, class_name, config, text_config=text, vision_config=vision, **more)


def both(cases: Iterable[Case]) -> list[Case]:
    """In memory, and on disk."""
    return [each for case in cases for each in (case, saved(case))]


def inputs_first(name: str, value: Any) -> Iterator[Named]:
    """Experts as Qwen3-VL is published."""
    yield name, value.mT if ".experts." in name else value


SEEN: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "in_channels": 3}


def qwen_vl() -> list[Case]:
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL and the towers alone."""
    small, large = sizes(0, 1)
    plain = {**SEEN, "embed_dim": 12, "mlp_ratio": 2, "spatial_merge_size": 3}
    gated: dict[str, Any] = {**SEEN, "hidden_size": 12, "intermediate_size": 20}
    deep: dict[str, Any] = {
        **gated,
        "num_position_embeddings": 30,
        "deepstack_visual_indexes": [0, 1],
        "temporal_patch_size": 3,
    }
    qk: dict[str, Any] = {"head_dim": 8, "attention_bias": True}
    moe = {**small, "num_experts": 3, "moe_intermediate_size": 10, "head_dim": 6, "mlp_only_layers": [0]}
    moe["num_hidden_layers"] = 2
    return [
        described("qwen2_vl", "Qwen2VLForConditionalGeneration", "Qwen2VLConfig", large, plain | {"hidden_size": 32}),
        saved(
            described(
                "qwen2_vl", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", small,
                gated | {"out_hidden_size": 24}, tie_word_embeddings=True,
            )
        ),
        described("qwen2_vl", "Qwen2_5_VLModel", "Qwen2_5_VLConfig", small, gated | {"out_hidden_size": 24}),
        hugging(
            "qwen2_vision", "Qwen2_5_VisionTransformerPretrainedModel", "Qwen2_5_VLVisionConfig", **gated,
            out_hidden_size=7,
        ),
        described(
            "qwen3_vl", "Qwen3VLForConditionalGeneration", "Qwen3VLConfig", large | qk, deep | {"out_hidden_size": 32},
            tie_word_embeddings=True,
        ),
        described("qwen3_vl", "Qwen3VLModel", "Qwen3VLConfig", small, gated | {"out_hidden_size": 24}),
        described(
            "qwen3_vl", "Qwen3VLMoeForConditionalGeneration", "Qwen3VLMoeConfig", moe, deep | {"out_hidden_size": 24}
        ),
        on_disk(
            described(
                "qwen3_vl", "Qwen3VLMoeModel", "Qwen3VLMoeConfig", moe | {"mlp_only_layers": []},
                gated | {"out_hidden_size": 24},
            ),
            inputs_first,
        ),
        hugging("qwen3_vision", "Qwen3VLVisionModel", "Qwen3VLVisionConfig", **deep, out_hidden_size=7),
    ]  # fmt: skip


def qwen_next() -> list[Case]:
    """Qwen3-Next and Qwen3.5: text alone, and with a tower."""
    linear: dict[str, Any] = {
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 5, "linear_value_head_dim": 7,
        "head_dim": 8,
    }  # fmt: skip
    small, large = sizes(0, 1, **linear)
    small |= {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    large |= {"num_hidden_layers": 4, "attention_bias": True}
    moe: dict[str, Any] = {"num_experts": 3, "moe_intermediate_size": 10, "shared_expert_intermediate_size": 12}
    seen = {**SEEN, "hidden_size": 12, "intermediate_size": 20, "num_position_embeddings": 30}
    tied: dict[str, Any] = {"tie_word_embeddings": True}
    return [
        saved(hugging("qwen3_next", "Qwen3NextForCausalLM", "Qwen3NextConfig", **large, **moe, mlp_only_layers=[1])),
        hugging("qwen3_next", "Qwen3NextForTokenClassification", "Qwen3NextConfig", **small, **moe),
        hugging("qwen3_next", "Qwen3_5ForCausalLM", "Qwen3_5TextConfig", **large, **tied),
        hugging("qwen3_next", "Qwen3_5TextModel", "Qwen3_5TextConfig", **small),
        described(
            "qwen3_5", "Qwen3_5ForConditionalGeneration", "Qwen3_5Config", large, seen | {"out_hidden_size": 32}, **tied
        ),
        saved(
            described(
                "qwen3_5", "Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeConfig", small | moe,
                seen | {"out_hidden_size": 24},
            )
        ),
        described("qwen3_5", "Qwen3_5Model", "Qwen3_5Config", small, seen | {"out_hidden_size": 24}),
    ]  # fmt: skip


def projected() -> list[Case]:
    """Towers of SigLIP, CLIP and Pixtral, and InternVL's own, before Gemma, Llama and their kin."""
    small, large = sizes(0, 1)
    headed = {"head_dim": 8}
    seen: dict[str, Any] = {
        "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 7,
    }  # fmt: skip
    siglip = {**seen, "model_type": "siglip_vision_model", "vision_use_head": False}
    clip = {**seen, "model_type": "clip_vision_model"}
    pixtral = {**seen, "model_type": "pixtral"}
    gemma, llama, qwen2 = ({"model_type": kind, **small} for kind in ("gemma", "llama", "qwen2"))
    qwen3: dict[str, Any] = {"model_type": "qwen3", **large, **headed}
    moe = {"model_type": "qwen3_moe", **small, "num_experts": 3, "moe_intermediate_size": 10, **headed}
    intern = {**seen, "image_size": [28, 14], "patch_size": [7, 14]}
    other = {"attention_bias": True, "use_qk_norm": True, "norm_type": "rms_norm", "use_mask_token": True}
    tied: dict[str, Any] = {"tie_word_embeddings": True}
    return [
        *both(
            described("gemma3", name, "Gemma3Config", small | headed, siglip)
            for name in ("Gemma3ForConditionalGeneration", "Gemma3ForSequenceClassification")
        ),
        described("gemma3", "Gemma3Model", "Gemma3Config", large | headed, siglip | {"vision_use_head": True}),
        saved(
            described(
                "gemma3", "PaliGemmaForConditionalGeneration", "PaliGemmaConfig", gemma | headed, siglip,
                projection_dim=24, tie_word_embeddings=False,
            )
        ),
        *both(
            [
                described(
                    "mistral3", "Mistral3ForConditionalGeneration", "Mistral3Config",
                    {"model_type": "mistral", **large, **headed}, pixtral, spatial_merge_size=3,
                )
            ]
        ),
        described("mistral3", "Mistral3Model", "Mistral3Config", {"model_type": "ministral3", **small}, pixtral),
        hugging("pixtral", "PixtralVisionModel", "PixtralVisionConfig", **seen),
        saved(described("llava", "LlavaForConditionalGeneration", "LlavaConfig", llama | headed, clip)),
        described("llava", "LlavaForConditionalGeneration", "LlavaConfig", llama, pixtral, label="pixtral", **tied),
        saved(described("llava", "LlavaNextForConditionalGeneration", "LlavaNextConfig", qwen2, clip)),
        described("llava", "LlavaOnevisionForConditionalGeneration", "LlavaOnevisionConfig", qwen3, siglip),
        described(
            "llava", "LlavaOnevisionModel", "LlavaOnevisionConfig", llama, siglip | {"vision_use_head": True}, **tied
        ),
        described("llava", "LlavaModel", "LlavaConfig", llama, clip, multimodal_projector_bias=False),
        described(
            "llava", "VipLlavaForConditionalGeneration", "VipLlavaConfig", llama, clip, vision_feature_layers=[-1, 0]
        ),
        described("idefics3", "SmolVLMForConditionalGeneration", "SmolVLMConfig", llama, seen, scale_factor=3, **tied),
        described("idefics3", "Idefics3Model", "Idefics3Config", llama, seen),
        saved(described("internvl", "InternVLForConditionalGeneration", "InternVLConfig", qwen2, intern)),
        described("internvl", "InternVLForConditionalGeneration", "InternVLConfig", moe, intern | other, label="moe"),
        described("internvl", "InternVLModel", "InternVLConfig", qwen3, intern | {"use_mean_pooling": False}),
    ]  # fmt: skip


def gemma4() -> list[Case]:
    """Gemma 4: shared keys, keys as values, experts, embeddings for each layer; towers for pictures and sounds."""
    near, far = "sliding_attention", "full_attention"
    text: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 12, "layer_types": [near, far, near, far],
        "vocab_size_per_layer_input": 50, "hidden_size_per_layer_input": 6,
    }  # fmt: skip
    shared: dict[str, Any] = {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}
    dense: dict[str, Any] = text | {
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    }
    moe: dict[str, Any] = {"enable_moe_block": True, "num_experts": 3, "moe_intermediate_size": 10, "top_k_experts": 1}
    seen: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8, "patch_size": 4, "position_embedding_size": 30,
    }  # fmt: skip
    clipped: dict[str, Any] = {"use_clipped_linears": True, "standardize": True}
    heard: dict[str, Any] = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "subsampling_conv_channels": [6, 5],
        "output_proj_dims": 14,
    }  # fmt: skip
    return [
        hugging("gemma4_text", "Gemma4ForCausalLM", "Gemma4TextConfig", **text, **shared, tie_word_embeddings=False),
        hugging("gemma4_text", "Gemma4TextModel", "Gemma4TextConfig", **dense, **moe, attention_bias=True),
        hugging("gemma4_vision", "Gemma4VisionModel", "Gemma4VisionConfig", **seen, **clipped),
        hugging("gemma4_audio", "Gemma4AudioModel", "Gemma4AudioConfig", **heard, use_clipped_linears=False),
        described(
            "gemma4", "Gemma4ForConditionalGeneration", "Gemma4Config", text | shared, seen | clipped,
            audio_config=heard,
        ),
        described("gemma4", "Gemma4ForConditionalGeneration", "Gemma4Config", dense | moe, seen, label="moe"),
        described("gemma4", "Gemma4Model", "Gemma4Config", dense, seen),
    ]  # fmt: skip
