"""Checks that a tower's hyperparameters agree with its tensors.

Otherwise llama.cpp would only find out when it loads the file, or even when it computes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.edits.dialects.gguf_projectors import VISION
from ckptconv.errors import EditError
from ckptconv.formats.gguf.hub.layers import OTHER_MODEL, check_layers, missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.gguf_projectors import Projector
    from ckptconv.formats.gguf.hub.tower import TowerConfigs
    from ckptconv.formats.gguf.values import Typed

    Infos = Mapping[str, TensorInfo]

_TRANSLATION = "to-mmproj"
_LAST = {
    "gemma3": "mm.input_projection.weight", "idefics3": "mm.model.fc.weight", "internvl": "mm.model.mlp.3.weight",
    "llama4": "mm.model.fc.weight", "qwen2a": "mm.a.fc.weight", "voxtral": "mm.a.mlp.2.weight",
}  # fmt: skip
"""The last matrix of each projector; all others have mm.2."""
_TRANSPOSED = ("gemma3",)
"""Projectors whose last matrix has its outputs as columns."""
_WRONG_FEED_FORWARD = ("qwen2vl_merger",)
"""Projectors for which llama.cpp's converter writes another feed-forward width than the layers have."""
_LAYER = re.compile(r"[va]\.blk\.([0-9]{1,9})\.(.+)")
_PATCHES = "v.patch_embd.weight"
_FRAMES = "a.conv1d.1.weight"


def check_sizes(projector: Projector, entries: Mapping[str, Typed], tensors: Infos, configs: TowerConfigs) -> int:
    """The width of the projector's outputs. Raises EditError if the configuration belongs to another model, or tensors
    are missing.
    """
    numbers = {key.split(".", 2)[-1]: value for key, (_, value) in entries.items() if type(value) is int}
    is_vision = projector.config == VISION
    first = _PATCHES if is_vision else _FRAMES
    for name in (first, *projector.needed):
        if name not in tensors:
            raise missing(_TRANSLATION, f"there is no {name}")
    _check_layers(numbers["block_count"], tensors)
    if numbers["embedding_length"] % numbers["attention.head_count"]:
        raise _mismatch("heads", numbers["attention.head_count"], f"the tower is {numbers['embedding_length']} wide")
    _check_axis("embedding_length", numbers, first, tensors, 0)
    if projector.name not in _WRONG_FEED_FORWARD:
        _check_axis("feed_forward_length", numbers, f"{first[0]}.blk.0.ffn_up.weight", tensors, 0)
    if is_vision:
        if len(tensors[first].shape) == 4:
            _check_axis("patch_size", numbers, first, tensors, 3)
        side = numbers["image_size"] // numbers["patch_size"]
        _check_positions("v.position_embd.weight", side * side + ("v.class_embd" in tensors), tensors)
    else:
        _check_axis("num_mel_bins", numbers, first, tensors, 1)
        _check_positions("a.position_embd.weight", configs.tower.positive("max_source_positions"), tensors)
    return _output_width(projector, tensors, configs)


def _output_width(projector: Projector, tensors: Infos, configs: TowerConfigs) -> int:
    """The projector's outputs, which have to be as wide as the language model's embeddings."""
    last = _LAST.get(projector.name, "mm.2.weight")
    shape = tensors[last].shape
    if len(shape) != 2:
        raise _mismatch("a matrix", last, f"it is {list(shape)}")
    width = shape[1 if projector.name in _TRANSPOSED else 0]
    if configs.model.has("hidden_size") and configs.model.width != width:
        raise _mismatch("texts of a width", configs.model.width, f"{last} is {list(shape)}")
    return width


def _check_layers(count: int, tensors: Infos) -> None:
    """Raise EditError unless all layers are there, with the same parts."""
    layers: dict[int, set[str]] = defaultdict(set)
    for name in tensors:
        if match := _LAYER.fullmatch(name):
            layers[int(match[1])].add(match[2])
    check_layers(_TRANSLATION, count, layers)


def _check_axis(key: str, numbers: Mapping[str, int], name: str, tensors: Infos, axis: int) -> None:
    """Raise EditError unless the axis of the tensor has the size that the hyperparameter states."""
    info = tensors.get(name)
    if info is None or axis >= len(info.shape) or info.shape[axis] != numbers[key]:
        shape = "not there" if info is None else list(info.shape)
        raise _mismatch(key, numbers[key], f"{name} is {shape}")


def _check_positions(name: str, count: int, tensors: Infos) -> None:
    shape = tensors[name].shape if name in tensors else (count, 0)
    if len(shape) < 2 or shape[-2] != count:
        raise _mismatch("positions", count, f"{name} is {list(shape)}")


def _mismatch(what: str, stated: object, found: str) -> EditError:
    return EditError(f"--translate {_TRANSLATION}: {CONFIG} says {what} {stated}, and {found}", hint=OTHER_MODEL)
