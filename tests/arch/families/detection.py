"""torchvision's networks that find and segment things, with a small ResNet, and DETR."""

from __future__ import annotations

import importlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.arch.families.more_vision import Renamed
from tests.arch.real_models import Case, torch, torchvision_models

if TYPE_CHECKING:
    from collections.abc import Callable


def rcnn() -> list[Case]:
    """Mask and Keypoint R-CNN, the second version, and the names of files from before torchvision 0.13."""
    cases: dict[str, Callable[[], Any]] = {
        "mask": partial(detecting, "MaskRCNN"),
        "keypoint": partial(detecting, "KeypointRCNN"),
        "second": partial(detecting, "MaskRCNN", second=True),
        "old": old_names,
    }
    return [Case("rcnn", name, build) for name, build in cases.items()]


def detecting(class_name: str, *, second: bool = False) -> Any:
    """A detector; the second version as ``maskrcnn_resnet50_fpn_v2`` has its heads."""
    models = torchvision_models()
    detection = models.detection
    norm = torch.nn.BatchNorm2d if second else None
    utils = detection.backbone_utils
    body = models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1])
    backbone = utils.BackboneWithFPN(
        body, {f"layer{i}": str(i) for i in range(1, 5)}, [64, 128, 256, 512], 16, norm_layer=norm
    )
    options: dict[str, Any] = {} if second else {"num_classes": 5}
    if second:
        options["rpn_head"] = detection.rpn.RPNHead(16, 3, conv_depth=2)
        options["box_head"] = detection.faster_rcnn.FastRCNNConvFCHead((16, 7, 7), [16] * 4, [24], norm_layer=norm)
        options["box_predictor"] = detection.faster_rcnn.FastRCNNPredictor(24, 5)
        options["mask_head"] = detection.mask_rcnn.MaskRCNNHeads(16, [16] * 4, 1, norm_layer=norm)
        options["mask_predictor"] = detection.mask_rcnn.MaskRCNNPredictor(16, 16, 5)
    module = getattr(detection, {"MaskRCNN": "mask_rcnn", "KeypointRCNN": "keypoint_rcnn"}[class_name])
    return getattr(module, class_name)(backbone, **options)


def old_names() -> Any:
    """A Mask R-CNN under the names that it had, which its class still loads."""
    return Renamed(detecting("MaskRCNN"), old_name)


def old_name(name: str) -> str | None:
    """The name of before torchvision 0.13, whose frozen norms counted no batches."""
    if name.endswith("num_batches_tracked"):
        return None
    name = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", name).replace(
        "rpn.head.conv.0.0.", "rpn.head.conv."
    )
    return re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name)


def single_stage() -> list[Case]:
    """RetinaNet in its two versions and with the names of before torchvision 0.13, FCOS, and SSD."""
    return [
        Case("retinanet", "first", partial(dense, "retinanet", "RetinaNet")),
        Case("retinanet", "second", partial(dense, "retinanet", "RetinaNet", second=True), thorough=False),
        Case("retinanet", "old", old_dense_names, thorough=False),
        Case("fcos", "FCOS", partial(dense, "fcos", "FCOS"), thorough=False),
        Case("ssd", "SSD300", single_shot),
    ]


def dense(module: str, class_name: str, *, second: bool = False) -> Any:
    """A detector without proposals; the second version as ``retinanet_resnet50_fpn_v2`` has its heads."""
    models = torchvision_models()
    detection = models.detection
    width = 32  # its norms have 32 groups
    body = models.resnet.ResNet(models.resnet.BasicBlock, [2, 2, 2, 2])
    coarser = importlib.import_module("torchvision.ops.feature_pyramid_network").LastLevelP6P7(
        512 if second else width, width
    )
    backbone = detection.backbone_utils.BackboneWithFPN(
        body, {f"layer{i}": str(i) for i in range(2, 5)}, [128, 256, 512], width, extra_blocks=coarser
    )
    options: dict[str, Any] = {}
    if second:
        anchors = detection.retinanet._default_anchorgen()
        options["head"] = detection.retinanet.RetinaNetHead(
            width, anchors.num_anchors_per_location()[0], 5, norm_layer=partial(torch.nn.GroupNorm, 32)
        )
    return getattr(getattr(detection, module), class_name)(backbone, 5, **options)


def old_dense_names() -> Any:
    """A RetinaNet under the names that it had, which its class still loads."""

    def old(name: str) -> str | None:
        renamed = old_name(name)
        return renamed and re.sub(r"_head\.conv\.(\d)\.0\.", lambda found: f"_head.conv.{2 * int(found[1])}.", renamed)

    return Renamed(dense("retinanet", "RetinaNet"), old)


def single_shot() -> Any:
    """The SSD as torchvision builds it."""
    return torchvision_models().detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=5)


def detr() -> list[Case]:
    """DETR, whose transformer has torch's names, with norms that are frozen as it has them, and with others."""
    return [
        Case("detr", name, partial(detecting_transformer, norm), thorough=False)
        for name, norm in (("frozen", "FrozenBatchNorm2d"), ("trained", None))
    ]


def detecting_transformer(norm: str | None) -> Any:
    """As models/detr.py and models/transformer.py of facebookresearch/detr put it together, of smaller sizes."""
    models = torchvision_models()
    frozen = getattr(importlib.import_module("torchvision.ops"), norm) if norm else None
    body = models.resnet.ResNet(models.resnet.BasicBlock, [2, 2, 2, 2], norm_layer=frozen)
    del body.fc
    transformer = torch.nn.Transformer(16, 2, 2, 2, 24)
    transformer.encoder.norm = None
    boxes = torch.nn.ModuleList(torch.nn.Linear(16, outputs) for outputs in (16, 16, 4))
    return torch.nn.ModuleDict(
        {
            "transformer": transformer,
            "class_embed": torch.nn.Linear(16, 6),
            "bbox_embed": torch.nn.ModuleDict({"layers": boxes}),
            "query_embed": torch.nn.Embedding(7, 16),
            "input_proj": torch.nn.Conv2d(512, 16, 1),
            "backbone": torch.nn.Sequential(torch.nn.ModuleDict({"body": body})),
        }
    )


def segmentation() -> list[Case]:
    """FCN and DeepLabV3, with a second head and without."""
    kinds = {"fcn": ("fcn", False), "deeplab-aux": ("deeplabv3", True)}
    return [Case("segmentation", name, partial(segmenting, kind, aux=aux)) for name, (kind, aux) in kinds.items()]


def segmenting(kind: str, *, aux: bool) -> Any:
    """A segmenting network; DeepLab's has some 60 tensors in its head."""
    models = torchvision_models()
    module = getattr(models.segmentation, kind)
    body = models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1])
    backbone = models._utils.IntermediateLayerGetter(body, {"layer4": "out", "layer3": "aux"})
    second = models.segmentation.fcn.FCNHead(256, 5) if aux else None
    if kind == "fcn":
        return module.FCN(backbone, module.FCNHead(512, 5), second)
    return module.DeepLabV3(backbone, module.DeepLabHead(512, 5), second)
