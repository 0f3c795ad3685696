"""Models that few others resemble: lightning attention, recurrence, gated attention, experts in T5."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.arch.families.modern_decoders import Named, on_disk, sizes
from tests.arch.families.pictures import both, saved
from tests.arch.real_models import Case, hugging

if TYPE_CHECKING:
    from collections.abc import Iterator


def experts() -> list[Case]:
    """MiniMax with lightning attention in one layer or all, AFMoE, Switch Transformers."""
    small, large = sizes(0, 1, num_local_experts=3)
    mixed = {**large, "head_dim": 8, "block_size": 6, "layer_types": ["linear_attention", "full_attention"]}
    linear: dict[str, Any] = {**small, "block_size": 5, "layer_types": ["linear_attention"]}
    routed: dict[str, Any] = {"head_dim": 8, "num_experts": 3, "moe_intermediate_size": 10, "num_dense_layers": 1}
    switch: dict[str, Any] = {
        "vocab_size": 97, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 4, "num_decoder_layers": 3,
        "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 3, "num_heads": 4, "num_experts": 3,
    }  # fmt: skip
    name, config = "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig"
    return [
        *both([hugging("minimax", "MiniMaxForCausalLM", "MiniMaxConfig", **mixed)]),
        replace(on_disk(hugging("minimax", "MiniMaxModel", "MiniMaxConfig", **mixed), computed), thorough=False),
        hugging("minimax", "MiniMaxForTokenClassification", "MiniMaxConfig", **linear, num_labels=5),
        saved(hugging("afmoe", "AfmoeForCausalLM", "AfmoeConfig", **large, **routed, attention_bias=True)),
        hugging("afmoe", "AfmoeModel", "AfmoeConfig", **large, **routed, num_shared_experts=1),
        hugging("switch_transformers", name, config, **switch, router_bias=True),
        replace(
            hugging("switch_transformers", name, config, "untied", **switch, tie_word_embeddings=False), thorough=False
        ),
        hugging("switch_transformers", "SwitchTransformersEncoderModel", config, **switch),
    ]


def computed(name: str, value: Any) -> Iterator[Named]:
    """MiniMax without what transformers computes for it when it loads a file that lacks it."""
    if not name.endswith(("slope_rate", "_decay")):
        yield name, value


def few_norms() -> list[Case]:
    """VaultGemma."""
    small, large = sizes(0, 1, head_dim=8)
    return [
        hugging("gemma", "VaultGemmaForCausalLM", "VaultGemmaConfig", **large, attention_bias=True),
        hugging("gemma", "VaultGemmaModel", "VaultGemmaConfig", **small),
    ]


def recurrent() -> list[Case]:
    """RWKV 4, with a language model, and without one of the widths that follow from the other."""
    small: dict[str, Any] = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2}
    wide = {**small, "attention_hidden_size": 32, "intermediate_size": 40}
    return [
        hugging("rwkv", "RwkvForCausalLM", "RwkvConfig", **wide),
        hugging("rwkv", "RwkvModel", "RwkvConfig", **{**small, "num_hidden_layers": 1}),
    ]


def stages() -> list[Case]:
    """DINOv3's ConvNeXt."""
    sizes: dict[str, Any] = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 2, 3, 1]}
    return both([hugging("dinov3_convnext", "DINOv3ConvNextModel", "DINOv3ConvNextConfig", **sizes)])


def found() -> list[Case]:
    """Conditional DETR."""
    sizes: dict[str, Any] = {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 20,
        "decoder_attention_heads": 4, "decoder_ffn_dim": 28, "num_queries": 7, "num_labels": 3,
        "use_pretrained_backbone": False, "use_timm_backbone": True, "backbone": "resnet18",
    }  # fmt: skip
    bare = {**sizes, "encoder_layers": 2, "decoder_layers": 1, "backbone": "resnet50"}
    name, config = "conditional_detr", "ConditionalDetrConfig"
    return [
        *both([hugging(name, "ConditionalDetrForObjectDetection", config, **sizes)]),
        replace(hugging(name, "ConditionalDetrModel", config, **bare), thorough=False),
    ]


def heard() -> list[Case]:
    """Mimi, of two sizes."""
    sizes: dict[str, Any] = {
        "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "num_filters": 4, "codebook_size": 16, "codebook_dim": 10, "num_quantizers": 5,
        "num_semantic_quantizers": 2, "vector_quantization_hidden_dimension": 10, "upsample_groups": 12,
        "upsampling_ratios": [5, 4, 3, 2],
    }  # fmt: skip
    stereo = {**sizes, "audio_channels": 2, "num_semantic_quantizers": 1, "upsampling_ratios": [8, 6, 5, 4]}
    return [
        *both([hugging("mimi", "MimiModel", "MimiConfig", **sizes)]),
        replace(hugging("mimi", "MimiModel", "MimiConfig", "stereo", **stereo), thorough=False),
    ]


def seen_and_heard() -> list[Case]:
    """The thinker of Qwen2.5-Omni."""
    text = sizes(1)[0]
    vision = {
        "depth": 1, "hidden_size": 20, "num_heads": 2, "intermediate_size": 30, "patch_size": 4, "out_hidden_size": 32,
        "spatial_merge_size": 3,
    }  # fmt: skip
    audio = {
        "num_mel_bins": 10, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 28, "d_model": 16,
        "max_source_positions": 20, "output_dim": 32,
    }  # fmt: skip
    name, config = "Qwen2_5OmniThinkerForConditionalGeneration", "Qwen2_5OmniThinkerConfig"
    parts: dict[str, Any] = {"text_config": text, "vision_config": vision, "audio_config": audio}
    return both([hugging("qwen2_5_omni_thinker", name, config, **parts)])


def read_and_told() -> list[Case]:
    """Florence-2, and without its language model."""
    vision = {
        "embed_dim": [8, 12, 16, 20], "depths": [1, 1, 2, 1], "num_heads": [2, 2, 2, 2], "num_groups": [2, 2, 2, 2],
        "projection_dim": 24, "max_position_embeddings": 10, "max_temporal_embeddings": 14,
    }  # fmt: skip
    text = {
        "model_type": "bart", "vocab_size": 97, "d_model": 24, "encoder_layers": 2, "decoder_layers": 1,
        "encoder_ffn_dim": 40, "decoder_ffn_dim": 44, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "max_position_embeddings": 33,
    }  # fmt: skip
    parts: dict[str, Any] = {"vision_config": vision, "text_config": text}
    return [
        hugging("florence2", "Florence2ForConditionalGeneration", "Florence2Config", **parts),
        replace(hugging("florence2", "Florence2Model", "Florence2Config", **parts), thorough=False),
    ]
