"""Networks of packages that are too heavy to be installed here, as fixtures/others/make_architectures.py lists them."""

from __future__ import annotations

import gzip
import json
from collections import OrderedDict
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.arch.real_models import DTYPE_NAMES, Case, torch

LISTS = Path(__file__).parents[3] / "fixtures" / "others" / "architectures.json.gz"
THOROUGH = {
    "esrgan/x2", "esrgan/basicsr", "srvgg/prelu", "swinir/3conv", "hat/HAT", "dat/light", "span/norm",
    "realplksr/plain", "yolov8/yolov8n-cls", "yolo11/yolo11n-cls", "yolov5/yolov5n",
    "segmentation_models/Segformer-resnet18", "mit/MixVisionTransformer", "efficientnet_pytorch/efficientnet-b0",
    "swin_unetr/second", "segresnet/three", "nnunet/planar", "sam/small", "sam2/sam2.1_hiera_t",
    "hifigan/v3", "easyocr/second", "nafnet/small", "pyannote/apart", "wespeaker/ResNet34", "ecapa/small",
    "esm_fair/module", "litgpt/pythia", "litgpt/gemma", "litgpt/mixtral",
}  # fmt: skip
"""One of each kind, whose tensors are changed in turn; of what make_more_architectures.py made, small ones alone."""

DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@cache
def lists() -> dict[str, dict[str, Any]]:
    """By spec and name: the tensors' types and shapes, and which names share one."""
    return json.loads(gzip.decompress(LISTS.read_bytes()))


class State(OrderedDict[str, Any]):
    """A state_dict: the tensors, and the versions of the modules. Those that count batches are of the second."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        super().__init__(tensors)
        counts = ".num_batches_tracked"
        self._metadata = {name.removesuffix(counts): {"version": 2} for name in tensors if name.endswith(counts)}


class Listed:
    """In place of a module: what its state_dict has."""

    def __init__(self, key: str) -> None:
        rows = lists()[key]
        tensors = {
            name: torch.empty(shape, dtype=DTYPES[dtype], device="meta")
            for name, (dtype, *shape) in rows["tensors"].items()
        }
        for first, *others in rows["tied"]:
            tensors |= dict.fromkeys(others, tensors[first])
        self.tensors = tensors

    def state_dict(self, *, keep_vars: bool = False) -> State:
        return State(self.tensors if keep_vars else {name: tensor.detach() for name, tensor in self.tensors.items()})


def listed() -> list[Case]:
    """All of them."""
    return [
        Case(spec, name, partial(Listed, key), thorough=key in THOROUGH)
        for key in lists()
        for spec, _, name in [key.partition("/")]
    ]
