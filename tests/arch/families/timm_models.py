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
    return [timm("convnext", f"convnext{name}", **options) for name in ("_tiny", "_atto", "v2_tiny", "v2_atto")]
