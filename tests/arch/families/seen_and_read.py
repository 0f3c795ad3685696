"""Models of pictures and text, of masks, and of proteins: towers with heads of their own."""

from __future__ import annotations

from typing import Any

from tests.arch.families.pictures import both, described, saved
from tests.arch.real_models import Case, hugging

TEXT: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 16,
}  # fmt: skip
SEEN: dict[str, Any] = {
    "hidden_size": 20, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


def esm() -> list[Case]:
    """ESM-2 and ESM-1b, under the names of their files too."""
    tokens = {"pad_token_id": 1, "mask_token_id": 32}
    rotary: dict[str, Any] = {**TEXT, **tokens, "vocab_size": 33, "position_embedding_type": "rotary"}
    first = {**rotary, "position_embedding_type": "absolute", "emb_layer_norm_before": True, "num_hidden_layers": 3}
    return [
        *both([hugging("esm", "EsmForMaskedLM", "EsmConfig", **rotary)]),
        hugging("esm", "EsmForMaskedLM", "EsmConfig", label="first", **first, tie_word_embeddings=False),
        hugging("esm", "EsmForSequenceClassification", "EsmConfig", **first, num_labels=5),
        hugging("esm", "EsmForTokenClassification", "EsmConfig", **rotary),
        hugging("esm", "EsmModel", "EsmConfig", **rotary, is_decoder=True, add_cross_attention=True),
    ]


def blip() -> list[Case]:
    """BLIP with each head, and its models alone."""
    text = {**TEXT, "encoder_hidden_size": 20}
    classes = ("ForConditionalGeneration", "ForQuestionAnswering", "ForImageTextRetrieval", "Model")
    return [
        *(described("blip", f"Blip{name}", "BlipConfig", text, SEEN, projection_dim=12) for name in classes),
        hugging("blip", "BlipTextModel", "BlipTextConfig", **text),
        hugging("blip", "BlipVisionModel", "BlipVisionConfig", **SEEN),
    ]


def searched() -> list[Case]:
    """OWL-ViT and OWLv2, which find what a text names, and CLIPSeg, which marks it."""
    decoded: dict[str, Any] = {"extract_layers": [0, 1], "reduce_dim": 8, "decoder_num_attention_heads": 2}
    owls = (("OwlViT", "ForObjectDetection"), ("OwlViT", "Model"), ("Owlv2", "ForObjectDetection"))
    return [
        *(
            described("owlvit", f"{name}{head}", f"{name}Config", TEXT, SEEN, projection_dim=12)
            for name, head in owls
        ),
        *(
            described(
                "clipseg", "CLIPSegForImageSegmentation", "CLIPSegConfig", TEXT, SEEN, projection_dim=12, **decoded,
                decoder_intermediate_size=14, use_complex_transposed_convolution=more,
            )
            for more in (False, True)
        ),
    ]  # fmt: skip


def masks() -> list[Case]:
    """SAM, of two sizes."""
    prompt: dict[str, Any] = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 8}
    decoder: dict[str, Any] = {"hidden_size": 16, "mlp_dim": 20, "num_attention_heads": 2}
    seen: dict[str, Any] = {
        "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "mlp_dim": 40, "image_size": 64,
        "patch_size": 8, "output_channels": 16, "global_attn_indexes": [1], "window_size": 4, "num_pos_feats": 8,
    }  # fmt: skip
    bare = {**seen, "use_rel_pos": False, "use_abs_pos": False, "qkv_bias": False}
    deep = {**decoder, "iou_head_depth": 4, "num_multimask_outputs": 2, "num_hidden_layers": 3}
    return [
        hugging(
            "sam_transformers", "SamModel", "SamConfig", label=label, vision_config=vision,
            prompt_encoder_config=prompt, mask_decoder_config=masks,
        )
        for label, vision, masks in (("", seen, decoder), ("bare", bare, deep))
    ]  # fmt: skip


def resnet() -> list[Case]:
    """transformers' ResNet, of both kinds of layers."""
    sizes: dict[str, Any] = {"embedding_size": 8, "depths": [1, 2, 1]}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("ForImageClassification", {"hidden_sizes": [16, 32, 40], "layer_type": "bottleneck"}),
        ("ForImageClassification", {"hidden_sizes": [8, 12, 20], "layer_type": "basic"}),
        ("Model", {"hidden_sizes": [8, 12, 20], "layer_type": "basic", "downsample_in_first_stage": True}),
    ]
    return [
        hugging("resnet_transformers", f"ResNet{name}", "ResNetConfig", label=more["layer_type"], **sizes, **more)
        for name, more in rows
    ]


def further_vision() -> list[Case]:
    """Vision transformers that are not quite one: BEiT, DPT, YOLOS, VideoMAE."""
    each: dict[str, Any] = {**SEEN, "use_relative_position_bias": True}
    shared: dict[str, Any] = {
        **SEEN, "use_shared_relative_position_bias": True, "use_mask_token": True, "use_mean_pooling": False,
        "use_absolute_position_embeddings": True, "layer_scale_init_value": 0.0, "vocab_size": 33,
    }  # fmt: skip
    deep: dict[str, Any] = {
        **SEEN, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [6, 8, 10, 12],
        "fusion_hidden_size": 14, "is_hybrid": False,
    }  # fmt: skip
    normed = {**deep, "use_batch_norm_in_fusion_residual": True, "readout_type": "add", "qkv_bias": False}
    tall = {**SEEN, "image_size": [32, 48], "num_detection_tokens": 5}
    decoder: dict[str, Any] = {
        "decoder_hidden_size": 12, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 20,
    }  # fmt: skip
    return [
        *both([hugging("beit", "BeitForImageClassification", "BeitConfig", **each)]),
        saved(hugging("beit", "BeitForMaskedImageModeling", "BeitConfig", **shared)),
        hugging("beit", "BeitModel", "BeitConfig", **shared),
        hugging("beit", "Data2VecVisionForImageClassification", "Data2VecVisionConfig", **each),
        hugging("dpt", "DPTForDepthEstimation", "DPTConfig", **deep),
        hugging("dpt", "DPTForSemanticSegmentation", "DPTConfig", **normed),
        *both([hugging("yolos", "YolosForObjectDetection", "YolosConfig", **tall)]),
        hugging("yolos", "YolosModel", "YolosConfig", **tall, use_mid_position_embeddings=False),
        *both([hugging("videomae", "VideoMAEForVideoClassification", "VideoMAEConfig", **SEEN)]),
        saved(hugging("videomae", "VideoMAEForPreTraining", "VideoMAEConfig", **SEEN, **decoder)),
        hugging("videomae", "VideoMAEModel", "VideoMAEConfig", **SEEN, use_mean_pooling=False, qkv_bias=False),
    ]
