"""timm's networks, each with every part that may be there or not."""

from __future__ import annotations

from tests.arch.real_models import Case, timm

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 1}


def vit() -> list[Case]:
    """timm's VisionTransformer."""
    plain = [
        "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224",
        "vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224",
        "vit_so400m_patch14_siglip_224", "vit_base_patch16_siglip_gap_224",
    ]  # fmt: skip
    cases = [timm("timm_vit", name, **SMALL) for name in plain]
    sizes = {"embed_dim": 96, "depth": 3, "num_heads": 3, "img_size": 64, "in_chans": 1, "num_classes": 7}
    cases.append(timm("timm_vit", "vit_tiny_patch16_224", **sizes, qkv_bias=False, global_pool="avg"))
    cases.append(timm("timm_vit", "vit_tiny_patch16_224", **sizes, qk_norm=True))
    cases.append(timm("timm_vit", "vit_giant_patch14_dinov2", embed_dim=96, depth=2, num_heads=3))
    return cases


def convnext() -> list[Case]:
    """timm's ConvNeXt, and the second version's."""
    options = {"depths": (1, 2, 1, 3), "dims": (8, 16, 40, 24), "num_classes": 7}
    names = ("_tiny", "_atto", "v2_tiny", "v2_atto", "_atto_ols", "_zepto_rms_ols", "_tiny_hnf")
    cases = [timm("convnext", f"convnext{name}", **options) for name in names]
    return [*cases, timm("convnext", "convnext_large_mlp", **options, head_hidden_size=12)]


def eva() -> list[Case]:
    """EVA, EVA-02, DINOv3, ViT with rotary positions and BEiT: each with biases, gates and norms of its own."""
    small = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    names = (
        "eva02_tiny_patch14_224", "eva02_base_patch16_clip_224", "vit_7b_patch16_dinov3", "beit_base_patch16_224",
        "vit_base_patch16_rope_mixed_ape_224", "vit_pe_lang_large_patch14_448",
    )  # fmt: skip
    return [timm("timm_eva", name, **small) for name in names]


def swin() -> list[Case]:
    """Both versions of Swin, with a head and without."""
    options = {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8)}
    names = {"swin_tiny_patch4_window7_224": 5, "swin_s3_tiny_224": 0, "swinv2_tiny_window8_256": 5}
    return [timm("timm_swin", name, **options, num_classes=classes) for name, classes in names.items()]


def resnet() -> list[Case]:
    """Deep stems, squeezing by two layers and by one convolution, shortcuts that average, with a head and without."""
    options = {"layers": (1, 2, 1, 1), "channels": (64, 64, 128, 128), "num_classes": 7}
    names = ("seresnext50_32x4d", "ecaresnet26t", "resnetrs50")
    cases = [timm("timm_resnet", name, **options) for name in names]
    return [*cases, timm("timm_resnet", "resnet18d", **{**options, "num_classes": 0})]


def efficientnet() -> list[Case]:
    """The first version and the second."""
    names = ("tinynet_e", "test_efficientnet")
    return [timm("timm_efficientnet", name, num_classes=7) for name in names]


def mobilenet_v3() -> list[Case]:
    """Small and large, and without squeezing; with a head and without."""
    names = {"mobilenetv3_small_050": 7, "mobilenetv3_large_100": 0, "tf_mobilenetv3_small_minimal_100": 7}
    return [timm("timm_mobilenetv3", name, num_classes=classes) for name, classes in names.items()]


def regnet() -> list[Case]:
    """X, Y and Z."""
    names = ("regnetx_002", "regnety_002", "regnetz_005")
    return [timm("timm_regnet", name, num_classes=7) for name in names]


def qwen3_vit() -> list[Case]:
    """Qwen3-VL's towers: the encoder alone, which merges patches, and within a model, with its merger or without."""
    return [timm("timm_qwen3_vit", f"qwen3_vit_88m{form}", **SMALL) for form in ("", "_enc", "_merge")]


def vgg() -> list[Case]:
    """With batch norm and without."""
    return [timm("timm_vgg", name, num_classes=7) for name in ("vgg11", "vgg13_bn")]


def mixer() -> list[Case]:
    """MLP-Mixer, one with gates, and ResMLP."""
    names = ("mixer_s32_224", "gmixer_12_224", "resmlp_12_224")
    return [timm("timm_mixer", name, num_classes=7) for name in names]
