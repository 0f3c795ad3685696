"""Encoders of 2023 and later, and what is built on them: for text, pages and pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.arch.families.pictures import saved
from tests.arch.real_models import Case, encoder_sizes, hugging


def texts() -> list[Case]:
    """EuroBERT, which has Llama's names, and NomicBERT under both sets of names."""
    (small, large, _) = encoder_sizes()
    padded = {**small, "pad_token_id": 0}
    heads = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
    return [
        hugging("llama", "EuroBertForMaskedLM", "EuroBertConfig", **padded, num_key_value_heads=2),
        saved(hugging("nomic_bert", "NomicBertModel", "NomicBertConfig", **large)),
        *(saved(hugging("nomic_bert", f"NomicBert{head}", "NomicBertConfig", **small)) for head in heads),
        hugging("nomic_bert", "NomicBertForMaskedLM", "NomicBertConfig", **small, head_dim=10),
    ]


def pages() -> list[Case]:
    """LayoutLMv3, with the picture of a page and without, and each way to classify."""
    small: dict[str, Any] = {**encoder_sizes()[0], "coordinate_size": 4, "shape_size": 4, "input_size": 32}
    large: dict[str, Any] = {**encoder_sizes()[1], "coordinate_size": 6, "shape_size": 4, "input_size": 48}
    blind = {"visual_embed": False, "has_spatial_attention_bias": False, "has_relative_attention_bias": False}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("ForTokenClassification", {**small, "num_labels": 3}),
        ("ForSequenceClassification", {**large, "patch_size": 8}),
        ("ForQuestionAnswering", small),
        ("Model", {**large, **blind}),
    ]
    return [hugging("layoutlmv3", f"LayoutLMv3{head}", "LayoutLMv3Config", **more) for head, more in rows]


def towers() -> list[Case]:
    """DINOv3, and Depth Anything on DINOv2."""
    seen: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 7}
    bare: dict[str, Any] = {"use_gated_mlp": True, "query_bias": False, "proj_bias": False, "mlp_bias": False}
    body = {
        **seen, "model_type": "dinov2", "num_hidden_layers": 4, "image_size": 28, "out_indices": [1, 2, 3, 4],
        "reshape_hidden_states": False, "apply_layernorm": True,
    }  # fmt: skip
    neck: dict[str, Any] = {"neck_hidden_sizes": [4, 6, 8, 10], "fusion_hidden_size": 6, "head_hidden_size": 5}
    depth = hugging(
        "depth_anything", "DepthAnythingForDepthEstimation", "DepthAnythingConfig", backbone_config=body,
        reassemble_hidden_size=16, **neck,
    )  # fmt: skip
    return [
        saved(hugging("dinov3_vit", "DINOv3ViTModel", "DINOv3ViTConfig", **seen, num_register_tokens=3)),
        hugging("dinov3_vit", "DINOv3ViTModel", "DINOv3ViTConfig", **seen, key_bias=True, intermediate_size=20, **bare),
        depth,
        saved(depth),
    ]


def segformer() -> list[Case]:
    """SegFormer with each head, with its last stage reduced or not, under both sets of names."""
    sizes: dict[str, Any] = {
        "num_encoder_blocks": 3, "hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "sr_ratios": [4, 2, 1],
        "patch_sizes": [7, 3, 3], "strides": [4, 2, 2], "num_attention_heads": [1, 2, 3], "mlp_ratios": [2, 3, 4],
        "decoder_hidden_size": 12,
    }  # fmt: skip
    reduced = {**sizes, "sr_ratios": [4, 1, 2]}
    segments = hugging("segformer", "SegformerForSemanticSegmentation", "SegformerConfig", **sizes)
    return [
        segments,
        replace(saved(segments), thorough=False),  # without its class nothing says that counts of batches are saved
        saved(hugging("segformer", "SegformerForImageClassification", "SegformerConfig", **reduced)),
        hugging("segformer", "SegformerModel", "SegformerConfig", **reduced),
    ]
