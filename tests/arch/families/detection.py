"""torchvision's networks that find and segment things, with a small ResNet."""

from __future__ import annotations

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
