"""Networks that see: torchvision's, ViT, CLIP."""

from __future__ import annotations

from typing import Any

from tests.arch.real_models import Case, hugging, torchvision


def clip() -> list[Case]:
    """CLIP and its towers."""
    cases: list[Case] = []
    for size, (width, seen, layers) in enumerate(((24, 32, 1), (32, 48, 3), (48, 24, 2))):
        text = {
            "vocab_size": 97 + size, "hidden_size": width, "intermediate_size": 40 + size, "num_hidden_layers": layers,
            "num_attention_heads": 4, "max_position_embeddings": 33 + size, "projection_dim": 16 + size,
            "bos_token_id": 0, "eos_token_id": 1,
        }  # fmt: skip
        vision = {
            "hidden_size": seen, "intermediate_size": 56 + size, "num_hidden_layers": layers + 1,
            "num_attention_heads": 4, "image_size": 32 + 8 * size, "patch_size": 8, "projection_dim": 16 + size,
        }  # fmt: skip
        both = {"text_config": text, "vision_config": vision, "projection_dim": 16 + size}
        cases.append(hugging("clip", "CLIPModel", "CLIPConfig", label=str(size), **both))
        cases.append(hugging("clip", "CLIPForImageClassification", "CLIPConfig", label=str(size), **both))
        for name in ("CLIPTextModel", "CLIPTextModelWithProjection"):
            cases.append(hugging("clip", name, "CLIPTextConfig", label=str(size), **text))
        for name in ("CLIPVisionModel", "CLIPVisionModelWithProjection"):
            cases.append(hugging("clip", name, "CLIPVisionConfig", label=str(size), **vision))
    return cases


def vision() -> list[Case]:
    """torchvision's ResNets, VGGs and ViTs in all sizes, and transformers' ViT."""
    cases = [torchvision("resnet", f"resnet{depth}") for depth in (18, 34, 50, 101, 152)]
    cases += [torchvision("resnet", name) for name in ("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2")]
    cases.append(torchvision("resnet", "resnet18", num_classes=7))
    cases += [torchvision("vgg", f"vgg{depth}{norm}") for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
    cases += [torchvision("vit", name) for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_h_14")]
    cases.append(torchvision("vit", "vit_b_32", representation_size=64))
    for size, (width, layers) in enumerate(((24, 1), (32, 3), (48, 2))):
        options = {
            "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 40 + size,
            "image_size": 32 + 16 * size, "patch_size": 16, "num_labels": 5 + size,
        }  # fmt: skip
        for name in ("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"):
            cases.append(hugging("vit", name, "ViTConfig", label=str(size), **options))
    return cases


def vit_kin() -> list[Case]:
    """What has ViT's layers, with other tokens, patches or heads."""
    options: dict[str, Any] = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "image_size": 32,
        "patch_size": 8, "num_labels": 5,
    }  # fmt: skip
    sounds: dict[str, Any] = {**options, "max_length": 64, "num_mel_bins": 32}
    deit = ("DeiTModel", "DeiTForImageClassificationWithTeacher")
    cases = [hugging("vit", name, "DeiTConfig", **options) for name in deit]
    cases.append(hugging("vit", "IJepaForImageClassification", "IJepaConfig", **options))
    others = [
        hugging("vit", "ASTForAudioClassification", "ASTConfig", **sounds),
        hugging("vit", "VivitForVideoClassification", "VivitConfig", **options, num_frames=4, tubelet_size=[2, 8, 8]),
        hugging("vit", "PixioModel", "PixioConfig", **options, n_cls_tokens=3),
    ]
    return [*cases, *(Case(case.spec, case.name, case.build) for case in others)]  # whose settings mean something else
