"""What the configuration says of a tower's sizes beside the tensors that there are, under llama.cpp's names.

llama.cpp finds out only when it loads the file, or when it computes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.edits.dialects.gguf_projectors import VISION
from ckptconv.errors import EditError
from ckptconv.formats.gguf.hub.whole import OTHERS, check_layers, missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.gguf_projectors import Projector
    from ckptconv.formats.gguf.hub.tower import Said
    from ckptconv.formats.gguf.values import Typed

    Infos = Mapping[str, TensorInfo]

_TRANSLATION = "to-mmproj"
_LAST = {
    "gemma3": "mm.input_projection.weight", "idefics3": "mm.model.fc.weight", "internvl": "mm.model.mlp.3.weight",
    "llama4": "mm.model.fc.weight", "qwen2a": "mm.a.fc.weight", "voxtral": "mm.a.mlp.2.weight",
}  # fmt: skip
"""The last matrix of each projector; mm.2 of all others."""
_TURNED = ("gemma3",)
"""Projectors whose last matrix has its outputs as columns."""
_FREE = ("qwen2vl_merger",)
"""Projectors of which llama.cpp's converter says another width of the feed-forward layers than they have."""
_LAYER = re.compile(r"[va]\.blk\.([0-9]{1,9})\.(.+)")
_PATCHES = "v.patch_embd.weight"
_FRAMES = "a.conv1d.1.weight"


def check_sizes(projector: Projector, entries: Mapping[str, Typed], tensors: Infos, found: Said) -> int:
    """The width of what the projector gives. Raises EditError where the configuration is another model's, or tensors
    are missing.
    """
    said = {key.split(".", 2)[-1]: value for key, (_, value) in entries.items() if type(value) is int}
    pictures = projector.config == VISION
    first = _PATCHES if pictures else _FRAMES
    for name in (first, *projector.needed):
        if name not in tensors:
            raise missing(_TRANSLATION, f"there is no {name}")
    _check_layers(said["block_count"], tensors)
    if said["embedding_length"] % said["attention.head_count"]:
        raise _unlike("heads", said["attention.head_count"], f"the tower is {said['embedding_length']} wide")
    _check("embedding_length", said, first, tensors, 0)
    if projector.name not in _FREE:
        _check("feed_forward_length", said, f"{first[0]}.blk.0.ffn_up.weight", tensors, 0)
    if not pictures:
        _check("num_mel_bins", said, first, tensors, 1)
        _check_positions("a.position_embd.weight", found.tower.positive("max_source_positions"), tensors)
    else:
        if len(tensors[first].shape) == 4:
            _check("patch_size", said, first, tensors, 3)
        side = said["image_size"] // said["patch_size"]
        _check_positions("v.position_embd.weight", side * side + ("v.class_embd" in tensors), tensors)
    last = _LAST.get(projector.name, "mm.2.weight")
    shape = tensors[last].shape
    if len(shape) != 2:
        raise _unlike("a matrix", last, f"it is {list(shape)}")
    width = shape[1 if projector.name in _TURNED else 0]
    if found.whole.has("hidden_size") and found.whole.width != width:
        raise _unlike("texts of a width", found.whole.width, f"{last} is {list(shape)}")
    return width


def _check_layers(count: int, tensors: Infos) -> None:
    """All layers have the same parts."""
    layers: dict[int, set[str]] = defaultdict(set)
    for name in tensors:
        if found := _LAYER.fullmatch(name):
            layers[int(found[1])].add(found[2])
    check_layers(_TRANSLATION, count, layers)


def _check(key: str, said: Mapping[str, int], name: str, tensors: Infos, axis: int) -> None:
    info = tensors.get(name)
    if info is None or axis >= len(info.shape) or info.shape[axis] != said[key]:
        shape = "not there" if info is None else list(info.shape)
        raise _unlike(key, said[key], f"{name} is {shape}")


def _check_positions(name: str, count: int, tensors: Infos) -> None:
    shape = tensors[name].shape if name in tensors else (count, 0)
    if len(shape) < 2 or shape[-2] != count:
        raise _unlike("positions", count, f"{name} is {list(shape)}")


def _unlike(what: str, said: object, found: str) -> EditError:
    return EditError(f"--translate {_TRANSLATION}: {CONFIG} says {what} {said}, and {found}", hint=OTHERS)
