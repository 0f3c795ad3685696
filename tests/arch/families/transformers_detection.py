"""Detectors and readers of pages as transformers names them, on a backbone of another family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.arch.families.pictures import both, saved
from tests.arch.real_models import Case, encoder_sizes, hugging

SWIN: dict[str, Any] = {
    "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 3,
    "image_size": 32,
}  # fmt: skip


def found() -> list[Case]:
    """RT-DETR and its second version, with layers of three convolutions and of two; Grounding DINO."""
    sizes: dict[str, Any] = {
        "d_model": 16, "encoder_hidden_dim": 24, "encoder_ffn_dim": 20, "decoder_ffn_dim": 28, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_n_points": 3, "num_labels": 3,
        "decoder_in_channels": [24, 24, 24],
    }  # fmt: skip
    deep: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 1], "embedding_size": 8}
    deep |= {"model_type": "rt_detr_resnet", "out_features": ["stage2", "stage3", "stage4"]}
    flat = {**deep, "layer_type": "basic", "hidden_sizes": [8, 16, 24, 32]}
    first = hugging(
        "rtdetr_transformers", "RTDetrForObjectDetection", "RTDetrConfig", **sizes, backbone_config=deep,
        encoder_in_channels=[24, 32, 40],
    )  # fmt: skip
    second = hugging(
        "rtdetr_transformers", "RTDetrV2ForObjectDetection", "RTDetrV2Config", **sizes, backbone_config=flat,
        encoder_in_channels=[16, 24, 32], hidden_expansion=0.5, freeze_backbone_batch_norms=False, num_denoising=0,
        encoder_layers=2,
    )  # fmt: skip
    text: dict[str, Any] = {**encoder_sizes()[0], "model_type": "bert"}
    named: dict[str, Any] = {
        "d_model": 32, "encoder_ffn_dim": 20, "encoder_layers": 1, "decoder_layers": 2, "decoder_ffn_dim": 28,
        "encoder_attention_heads": 2, "decoder_attention_heads": 4, "num_queries": 7, "text_config": text,
    }  # fmt: skip
    seen = {**SWIN, "out_indices": [2, 3, 4]}
    ground = hugging(
        "grounding_dino", "GroundingDinoForObjectDetection", "GroundingDinoConfig", **named, backbone_config=seen
    )
    # without its class nothing says that counts of batches are saved
    return [first, replace(saved(first), thorough=False), second, *both([ground])]


def deformable() -> list[Case]:
    """Deformable DETR on two sizes of ResNet, its boxes refined by each layer or not."""
    sizes: dict[str, Any] = {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 20,
        "decoder_attention_heads": 4, "decoder_ffn_dim": 28, "num_queries": 7, "num_labels": 3,
        "use_pretrained_backbone": False, "use_timm_backbone": True, "backbone": "resnet18",
    }  # fmt: skip
    name, config = "DeformableDetrForObjectDetection", "DeformableDetrConfig"
    return [
        *both([hugging("deformable_detr", name, config, **sizes)]),
        hugging("deformable_detr", name, config, label="refined", **sizes, with_box_refine=True, decoder_n_points=3),
    ]


def segmented() -> list[Case]:
    """Mask2Former, MaskFormer."""
    sizes: dict[str, Any] = {
        "hidden_dim": 32, "feature_size": 32, "mask_feature_size": 20, "encoder_feedforward_dim": 28,
        "dim_feedforward": 36, "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 2, "num_queries": 7,
        "num_labels": 3,
    }  # fmt: skip
    seen = {**SWIN, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    name = "Mask2FormerForUniversalSegmentation"
    model = hugging("mask2former", name, "Mask2FormerConfig", **sizes, backbone_config=seen)
    projected = {**sizes, "enforce_input_projection": True, "encoder_layers": 2}
    decoder: dict[str, Any] = {
        "model_type": "detr", "d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 36, "decoder_attention_heads": 4,
        "num_queries": 7,
    }  # fmt: skip
    first: dict[str, Any] = {"fpn_feature_size": 64, "mask_feature_size": 20, "num_labels": 3, "backbone_config": seen}
    equal = {**first, "decoder_config": {**decoder, "d_model": 64}}
    first["decoder_config"] = decoder
    return [
        *both([model]),
        hugging("mask2former", "Mask2FormerModel", "Mask2FormerConfig", **projected, backbone_config=seen),
        *both([hugging("maskformer", "MaskFormerForInstanceSegmentation", "MaskFormerConfig", **first)]),
        replace(hugging("maskformer", "MaskFormerModel", "MaskFormerConfig", **equal), thorough=False),
    ]


def one() -> list[Case]:
    """OneFormer, with what it is trained with and without."""
    sizes: dict[str, Any] = {
        "hidden_dim": 32, "conv_dim": 64, "mask_dim": 20, "encoder_feedforward_dim": 26, "dim_feedforward": 28,
        "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 4, "num_queries": 7, "num_labels": 3,
        "task_seq_len": 11, "query_dec_layers": 2,
    }  # fmt: skip
    texts: dict[str, Any] = {
        "is_training": True, "text_encoder_width": 64, "text_encoder_context_length": 9, "text_encoder_num_layers": 2,
        "text_encoder_vocab_size": 50, "text_encoder_n_ctx": 5,
    }  # fmt: skip
    seen = {**SWIN, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    name, config = "OneFormerForUniversalSegmentation", "OneFormerConfig"
    trained = hugging("oneformer", name, config, "trained", **sizes, **texts, backbone_config=seen)
    return [trained, replace(saved(hugging("oneformer", name, config, **sizes, backbone_config=seen)), thorough=False)]


def pages() -> list[Case]:
    """Donut, and its encoder alone."""
    seen = {**SWIN, "model_type": "donut-swin", "depths": [1, 2], "num_heads": [1, 2]}
    decoder: dict[str, Any] = {
        "model_type": "mbart", "vocab_size": 97, "d_model": 16, "decoder_layers": 2, "decoder_ffn_dim": 28,
        "decoder_attention_heads": 2, "max_position_embeddings": 20, "is_decoder": True, "add_cross_attention": True,
    }  # fmt: skip
    bare = {key: value for key, value in seen.items() if key != "model_type"}
    return [
        hugging("donut", "VisionEncoderDecoderModel", "VisionEncoderDecoderConfig", encoder=seen, decoder=decoder),
        hugging("swin", "DonutSwinModel", "DonutSwinConfig", **bare),
    ]
