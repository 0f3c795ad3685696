"""Vision models as transformers names them: convolutions, transformers over windows, texts beside pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.arch.families.modern_decoders import Named, on_disk
from tests.arch.families.pictures import both, saved
from tests.arch.real_models import Case, hugging

if TYPE_CHECKING:
    from collections.abc import Iterator


def convolutions() -> list[Case]:
    """EfficientNet, both MobileNets, MobileViT, with each head."""
    blocks: dict[str, Any] = {
        "in_channels": [32, 8, 12], "out_channels": [8, 12, 24], "kernel_sizes": [3, 5, 3], "strides": [1, 2, 2],
        "num_block_repeats": [2, 1, 2], "expand_ratios": [1, 6, 4],
    }  # fmt: skip
    sizes: dict[str, Any] = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 12, 16, 20, 24, 28, 40]}
    v2: dict[str, Any] = {"depth_multiplier": 0.35, "num_labels": 5}
    segments = "MobileNetV2ForSemanticSegmentation"
    return [
        hugging(
            "efficientnet_transformers", "EfficientNetForImageClassification", "EfficientNetConfig", **blocks,
            width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280,
        ),
        hugging("efficientnet_transformers", "EfficientNetModel", "EfficientNetConfig", **blocks, hidden_dim=2560),
        hugging("mobilenet_v1", "MobileNetV1ForImageClassification", "MobileNetV1Config", depth_multiplier=0.25),
        hugging("mobilenet_v1", "MobileNetV1Model", "MobileNetV1Config", depth_multiplier=0.5, num_channels=1),
        hugging("mobilenet_v2_transformers", "MobileNetV2ForImageClassification", "MobileNetV2Config", **v2),
        hugging(
            "mobilenet_v2_transformers", segments, "MobileNetV2Config", **v2, first_layer_is_expansion=False,
            expand_ratio=4.0,
        ),
        hugging("mobilevit", "MobileViTForImageClassification", "MobileViTConfig", **sizes, mlp_ratio=3.0),
        hugging(
            "mobilevit", "MobileViTForSemanticSegmentation", "MobileViTConfig", **sizes, expand_ratio=2.0,
            conv_kernel_size=5, aspp_out_channels=20, qkv_bias=False,
        ),
    ]  # fmt: skip


def windows() -> list[Case]:
    """Swin V2 with each head."""
    small: dict[str, Any] = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "image_size": 32, "window_size": 4}
    bare = {**small, "qkv_bias": False, "use_absolute_embeddings": True, "encoder_stride": 8}
    return [
        hugging("swinv2", "Swinv2ForImageClassification", "Swinv2Config", **small, num_labels=5),
        hugging("swinv2", "Swinv2ForMaskedImageModeling", "Swinv2Config", **bare),
        hugging("swinv2", "Swinv2Model", "Swinv2Config", **{**small, "depths": [2, 1, 1], "num_heads": [2, 2, 4]}),
    ]


def texts_too() -> list[Case]:
    """ViLT with each head."""
    small: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 33, "image_size": 32, "patch_size": 8, "num_labels": 5,
    }  # fmt: skip
    rows: list[tuple[str, dict[str, Any]]] = [
        ("ForMaskedLM", small),
        ("ForQuestionAnswering", {**small, "modality_type_vocab_size": 3, "qkv_bias": False}),
        ("ForImagesAndTextClassification", {**small, "num_images": 3}),
        ("ForTokenClassification", small),
        ("ForImageAndTextRetrieval", {**small, "num_hidden_layers": 1}),
    ]
    return [hugging("vilt", f"Vilt{head}", "ViltConfig", **more) for head, more in rows]


def masks() -> list[Case]:
    """SAM 2 for pictures, and both versions for video."""
    trunk: dict[str, Any] = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "embed_dim_per_stage": [8, 16, 32, 64],
        "blocks_per_stage": [1, 2, 1, 1], "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [6, 4, 14, 7], "window_positional_embedding_background_size": [7, 5],
    }  # fmt: skip
    more: dict[str, Any] = {
        "vision_config": {
            "model_type": "sam2_vision_model", "backbone_config": trunk, "backbone_channel_list": [64, 32, 16, 8],
            "fpn_hidden_size": 32,
        },
        "prompt_encoder_config": {"hidden_size": 32, "mask_input_channels": 12},
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 40, "num_multimask_outputs": 2, "iou_head_hidden_dim": 9},
    }  # fmt: skip
    recent: dict[str, Any] = {
        "memory_encoder_output_channels": 12, "memory_attention_num_layers": 1, "memory_fuser_num_layers": 1,
        "num_maskmem": 3, "memory_attention_feed_forward_hidden_size": 50, "memory_fuser_intermediate_dim": 70,
    }  # fmt: skip
    first: dict[str, Any] = {"enable_occlusion_spatial_embedding": False}
    first["enable_temporal_pos_encoding_for_object_pointers"] = False
    wide: dict[str, Any] = {"vision_config": {**more["vision_config"], "fpn_hidden_size": 256}}
    return [
        hugging("sam2_transformers", "Sam2Model", "Sam2Config", **more),
        hugging("sam2_transformers", "Sam2VideoModel", "Sam2VideoConfig", **wide, **recent),
        replace(
            hugging("sam2_transformers", "Sam2VideoModel", "Sam2VideoConfig", label="first", **wide, **first),
            thorough=False,
        ),
    ]


def told() -> list[Case]:
    """BLIP-2 with OPT, and with T5, InstructBLIP with Llama, and with T5."""
    seen: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
        "patch_size": 4,
    }  # fmt: skip
    between: dict[str, Any] = {
        "hidden_size": 20, "intermediate_size": 30, "num_hidden_layers": 3, "num_attention_heads": 4,
        "encoder_hidden_size": 16,
    }  # fmt: skip
    opt: dict[str, Any] = {
        "model_type": "opt", "vocab_size": 97, "hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 33, "word_embed_proj_dim": 24,
    }  # fmt: skip
    t5: dict[str, Any] = {
        "model_type": "t5", "vocab_size": 97, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 1, "num_heads": 4,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    }  # fmt: skip
    llama: dict[str, Any] = {
        "model_type": "llama", "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }  # fmt: skip
    more: dict[str, Any] = {"vision_config": seen, "qformer_config": between, "num_query_tokens": 5}
    reads: dict[str, Any] = {**more, "qformer_config": {**between, "vocab_size": 41, "max_position_embeddings": 33}}
    return [
        hugging(
            "blip2", f"{name}ForConditionalGeneration", f"{name}Config", text["model_type"], text_config=text, **each
        )
        for name, texts, each in (("Blip2", (opt, t5), more), ("InstructBlip", (llama, t5), reads))
        for text in texts
    ]


def further_convolutions() -> list[Case]:
    """RegNet X and Y, ViTPose with each decoder."""
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 2], "groups_width": 8}
    same = {**sizes, "hidden_sizes": [8, 12, 20], "depths": [2, 1, 1], "downsample_in_first_stage": False}
    body: dict[str, Any] = {
        "model_type": "vitpose_backbone", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": [32, 24], "patch_size": [8, 4],
    }  # fmt: skip
    bare = {**body, "qkv_bias": False, "mlp_ratio": 2, "patch_size": [8, 8]}
    name, config = "VitPoseForPoseEstimation", "VitPoseConfig"
    return [
        hugging("regnet_transformers", "RegNetForImageClassification", "RegNetConfig", **sizes, num_labels=5),
        hugging("regnet_transformers", "RegNetModel", "RegNetConfig", **same, layer_type="x"),
        hugging("vitpose", name, config, backbone_config=body, num_labels=5),
        hugging("vitpose", name, config, label="classic", backbone_config=bare, use_simple_decoder=False),
    ]


def glm() -> list[Case]:
    """GLM-4.1V."""
    text: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "pad_token_id": 0,
    }  # fmt: skip
    seen: dict[str, Any] = {
        "depth": 2, "hidden_size": 16, "num_heads": 2, "image_size": 24, "patch_size": 4, "out_hidden_size": 24,
        "intermediate_size": 36,
    }  # fmt: skip
    name, config = "Glm4vForConditionalGeneration", "Glm4vConfig"
    biased = {**seen, "attention_bias": True, "depth": 1, "spatial_merge_size": 3, "temporal_patch_size": 1}
    return [
        hugging("glm4v", name, config, label=label, text_config=text, vision_config=vision)
        for label, vision in (("", seen), ("biased", biased))
    ]


def pretrained() -> list[Case]:
    """ViT-MAE in memory, as transformers 5 writes it, and with the names of its files."""
    sizes: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 4, "decoder_hidden_size": 12, "decoder_intermediate_size": 20, "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2,
    }  # fmt: skip
    name, config = "ViTMAEForPreTraining", "ViTMAEConfig"
    held, written = both([hugging("vit_mae", name, config, **sizes)])
    unbiased = hugging("vit_mae", name, config, label="files", **{**sizes, "qkv_bias": False, "num_hidden_layers": 1})
    return [held, written, on_disk(saved(unbiased), published)]


def published(name: str, value: Any) -> Iterator[Named]:
    """The decoder's layers as transformers called them before 5 (models/vit_mae/convert_vit_mae_to_pytorch.py)."""
    yield name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers."), value
