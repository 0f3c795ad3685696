"""More networks that see: torchvision's, and transformers'."""

from __future__ import annotations

import importlib
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from tests.arch.real_models import Case, hugging, torch, torchvision, torchvision_models, transformers_module

if TYPE_CHECKING:
    from collections.abc import Callable


class Renamed:
    """A module whose state_dict has other names, which no module can have today."""

    def __init__(self, module: Any, rename: Callable[[str], str | None]) -> None:
        self.module, self.rename = module, rename

    def state_dict(self, *, keep_vars: bool = False) -> Any:
        found = self.module.state_dict(keep_vars=keep_vars)
        made: Any = OrderedDict()
        for name, tensor in found.items():
            new = self.rename(name)
            if new is not None:
                made[new] = tensor
        made._metadata = {}
        return made


def small(spec: str, label: str, make: Callable[[Any], Any], module: str = "") -> Case:
    """A model of torchvision's classes that none of its functions makes."""

    def build() -> Any:
        torchvision_models()
        return make(importlib.import_module(f"torchvision.models.{module or spec}"))

    return Case(spec, label, build)


def alexnet() -> list[Case]:
    """AlexNet with other classes."""
    return [torchvision("alexnet", "alexnet", num_classes=7)]


def densenet() -> list[Case]:
    """DenseNets in memory and as their old files name them."""

    def old(name: str) -> str | None:
        if name.endswith("num_batches_tracked"):
            return None
        return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name)

    shapes = {"growth_rate": 5, "block_config": (2, 3, 1, 2), "num_init_features": 9, "bn_size": 3, "num_classes": 7}
    return [
        small("densenet", "small", lambda models: models.DenseNet(**shapes)),
        small("densenet", "small-files", lambda models: Renamed(models.DenseNet(**shapes), old)),
    ]


def mobilenets() -> list[Case]:
    """MobileNets, narrow and short, with each kind of block."""
    few = [[1, 16, 1, 1], [6, 24, 2, 2], [4, 24, 1, 1]]

    def v3(models: Any) -> Any:
        block = models.InvertedResidualConfig
        rows = [
            (16, 3, 16, 16, False, "RE", 1, 1), (16, 3, 72, 24, False, "RE", 2, 1), (24, 5, 96, 40, True, "HS", 1, 1),
            (40, 3, 40, 40, True, "HS", 1, 1),
        ]  # fmt: skip
        return models.MobileNetV3([block(*row, 1.0) for row in rows], last_channel=56, num_classes=5)

    return [
        small("mobilenet_v2", "small", lambda models: models.MobileNetV2(7, 0.5, few), "mobilenetv2"),
        small("mobilenet_v3", "parts", v3, "mobilenetv3"),
    ]


def efficientnet() -> list[Case]:
    """EfficientNets of both versions, short, with each kind of block."""

    def v1(models: Any) -> Any:
        rows = [(1, 3, 1, 16, 8, 1), (6, 5, 2, 8, 16, 2)]
        return models.EfficientNet([models.MBConvConfig(*row) for row in rows], 0.2, num_classes=7)

    def v2(models: Any) -> Any:
        fused = [(1, 3, 1, 8, 8, 1), (4, 3, 2, 8, 16, 2)]
        plain = [(6, 5, 1, 16, 24, 1)]
        rows = [*(models.FusedMBConvConfig(*row) for row in fused), *(models.MBConvConfig(*row) for row in plain)]
        return models.EfficientNet(rows, 0.2, num_classes=7, last_channel=40)

    return [
        small("efficientnet", "v1", v1),
        small("efficientnet", "v2", v2),
    ]


def renamed(spec: str, class_name: str, config_name: str, rename: Callable[[str], str | None], **options: Any) -> Case:
    """A model of transformers with the names of its files."""

    def build() -> Any:
        transformers = transformers_module()
        return Renamed(getattr(transformers, class_name)(getattr(transformers, config_name)(**options)), rename)

    plain = hugging(spec, class_name, config_name, **options)
    return Case(spec, f"{class_name}-files", build, plain.config)


def replaced(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """Replacements in names, one after the other."""

    def rename(name: str) -> str:
        for old, new in pairs:
            name = name.replace(old, new)
        return name

    return rename


def convnext() -> list[Case]:
    """ConvNeXts of torchvision and of transformers."""

    def short(models: Any) -> Any:
        rows = [models.CNBlockConfig(8, 16, 1), models.CNBlockConfig(16, 24, 3), models.CNBlockConfig(24, None, 2)]
        return models.ConvNeXt(rows, num_classes=7)

    cases = [small("convnext", "short", short)]
    options: dict[str, Any] = {"depths": [1, 2, 1], "hidden_sizes": [8, 16, 40], "num_stages": 3, "num_labels": 7}
    cases += [
        hugging("convnext", name, f"{name.partition('For')[0].removesuffix('Model')}Config", **options)
        for name in ("ConvNextModel", "ConvNextV2ForImageClassification")
    ]
    return cases


def dinov2() -> list[Case]:
    """DINOv2 with every part that may be there or not, in memory and in files."""
    options: dict[str, Any] = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2, "image_size": 42,
        "patch_size": 14, "num_labels": 5,
    }  # fmt: skip
    gated = options | {"use_swiglu_ffn": True, "mlp_ratio": 3, "num_register_tokens": 3}
    files = replaced(
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
    )
    bare: dict[str, Any] = {"use_mask_token": False, "qkv_bias": False}
    return [
        hugging("dinov2", "Dinov2Model", "Dinov2Config", **options),
        hugging("dinov2", "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", **gated | bare),
        renamed("dinov2", "Dinov2ForImageClassification", "Dinov2Config", files, **options | bare),
        Case("dinov2", "gated-files", lambda: in_one(transformers_module(), gated, files)),
    ]


def in_one(transformers: Any, options: dict[str, Any], rename: Callable[[str], str]) -> Any:
    """A gated DINOv2 whose two inputs of the feed-forward networks are one, as its files have it."""
    module = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**options))
    for layer in module.encoder.layer:
        layer.mlp.weights_in = torch.nn.Linear(options["hidden_size"], 2 * layer.mlp.gate_proj.out_features)
        layer.mlp.weights_out = layer.mlp.down_proj
        del layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj
    return Renamed(module, rename)


def siglip() -> list[Case]:
    """SigLIP and SigLIP 2, their towers with and without their heads."""
    text: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": 33, "projection_size": 20,
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    vision: dict[str, Any] = {
        "hidden_size": 20, "intermediate_size": 36, "num_hidden_layers": 1, "num_attention_heads": 4, "patch_size": 8,
    }  # fmt: skip
    first, second = vision | {"image_size": 32}, vision | {"num_patches": 9}
    both: dict[str, Any] = {"text_config": text, "vision_config": second | {"vision_use_head": False}}
    return [
        hugging("siglip", "SiglipModel", "SiglipConfig", text_config=text, vision_config=first),
        hugging("siglip", "SiglipTextModel", "SiglipTextConfig", **text),
        hugging("siglip", "Siglip2VisionModel", "Siglip2VisionConfig", **second),
        hugging("siglip", "Siglip2ForImageClassification", "Siglip2Config", **both),
    ]


def swin() -> list[Case]:
    """Swin transformers: both versions of torchvision's, transformers' with each head, in memory and in files."""

    def first(models: Any) -> Any:
        return models.SwinTransformer([4, 4], 12, [1, 2, 1], [2, 4, 6], [3, 3], mlp_ratio=2.0, num_classes=7)

    def second(models: Any) -> Any:
        parts = {"block": models.SwinTransformerBlockV2, "downsample_layer": models.PatchMergingV2}
        return models.SwinTransformer([2, 2], 8, [2, 1], [2, 4], [4, 4], num_classes=5, **parts)

    options: dict[str, Any] = {
        "image_size": 32, "patch_size": 2, "embed_dim": 12, "depths": [1, 2], "num_heads": [2, 6], "window_size": 4,
        "num_labels": 5, "encoder_stride": 4,
    }  # fmt: skip
    files = replaced(
        ("attention.q_proj", "attention.self.query"),
        ("attention.k_proj", "attention.self.key"),
        ("attention.v_proj", "attention.self.value"),
        ("attention.relative_position_bias.", "attention.self."),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    )
    more: dict[str, Any] = options | {"use_absolute_embeddings": True, "qkv_bias": False, "window_size": 5}
    return [
        small("swin_torchvision", "first", first, "swin_transformer"),
        small("swin_torchvision", "second", second, "swin_transformer"),
        hugging("swin", "SwinModel", "SwinConfig", **options),
        hugging("swin", "SwinForMaskedImageModeling", "SwinConfig", **more),
        renamed("swin", "SwinForImageClassification", "SwinConfig", files, **options),
    ]


def squeezenet() -> list[Case]:
    """Both versions of SqueezeNet."""
    return [torchvision("squeezenet", "squeezenet1_0"), torchvision("squeezenet", "squeezenet1_1", num_classes=7)]


def shufflenet() -> list[Case]:
    """A ShuffleNetV2 that is narrow and short."""

    def short(models: Any) -> Any:
        return models.ShuffleNetV2([2, 1, 2], [6, 8, 12, 20, 24], num_classes=7)

    return [small("shufflenet_v2", "short", short, "shufflenetv2")]


def regnet() -> list[Case]:
    """A RegNet Y, narrow and short."""

    def short(models: Any) -> Any:
        parts = ([1, 2], [16, 24], [8, 4], [1.0, 2.0], [2, 2])
        return models.RegNet(models.BlockParams(*parts, se_ratio=0.25), num_classes=7, stem_width=24)

    return [small("regnet", "short", short)]


def inceptions() -> list[Case]:
    """GoogLeNet and Inception v3, which have one size only."""
    return [
        torchvision("googlenet", "googlenet", aux_logits=True, init_weights=False),
        torchvision("inception_v3", "inception_v3", aux_logits=False, init_weights=False),
    ]


def without_positions() -> list[Case]:
    """Towers like CLIP's and SigLIP's whose positions are not learned."""
    sizes: dict[str, Any] = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return [
        hugging("tipsv2_text", "Tipsv2TextModel", "Tipsv2TextConfig", **sizes, vocab_size=97),
        hugging("videollama3_vision", "VideoLlama3VisionModel", "VideoLlama3VisionConfig", **sizes, patch_size=8),
    ]
