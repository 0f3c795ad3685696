"""Keras' layers, as its own files and TensorFlow's checkpoints name them.

    kernel [..., in, out] → weight [out, in, ...]      gamma, beta, embeddings → weight, bias, weight
    moving_mean, moving_variance → running_mean, running_var
    depthwise_kernel [..., in, times] → weight [in * times, 1, ...]; of a layer that has a pointwise_kernel as well,
    depthwise.weight and pointwise.weight

Slashes become dots; the layer's name that Keras puts before a weight's own, and ":0" behind it, go. What transformers
adds to make torch's names unique there (layer_._0, x___y) goes as well. Kernels of transposed convolutions, of
recurrent cells, and of depthwise convolutions in Keras 3, where they are plain kernels, are not told from others, and
torch holds those another way. Sources: keras/src/layers; transformers' modeling_tf_pytorch_utils.py (up to 4.x).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, outputs_first

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.change import Shape

_WORDS = {
    "kernel": "weight", "gamma": "weight", "embeddings": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var", "depthwise_kernel": "weight",
}  # fmt: skip
_SEPARABLE = (("depthwise_kernel", "pointwise_kernel"), ("pointwise_kernel", "depthwise_kernel"))
_NUMBERED = re.compile(r":\d+$")


def changes(tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object]) -> dict[str, Change]:
    """What becomes of each tensor.

    A weight that two layers share is there under each of them; the second keeps that layer's name before its own.
    """
    shapes = {name: info.shape for name, info in tensors.items()}
    made: dict[str, Change] = {}
    taken: set[str] = set()
    for name, shape in shapes.items():
        parts = _parts(name)
        own = _own_name(parts)
        separable = "_kernel" in name and {name.replace(a, b) for a, b in _SEPARABLE} <= shapes.keys()
        made[name] = _of_keras(parts if ".".join(own) in taken else own, shape, separable=separable)
        taken.add(".".join(own))
    return made


def _parts(name: str) -> list[str]:
    path = _NUMBERED.sub("", name).replace("_._", "/")
    return [part.rpartition("___")[2] for part in path.split("/") if part]


def _of_keras(parts: list[str], shape: Shape, *, separable: bool) -> Change:
    *modules, word = parts
    new = ".".join((*modules, word.replace("_kernel", ".weight") if separable else _WORDS.get(word, word)))
    if word == "depthwise_kernel" and len(shape) > 2:
        *window, inputs, times = shape
        flat = (*window, 1, inputs * times)
        return Change.to(new, flat, outputs_first(len(flat)))
    if word == "bias" and len(shape) == 2 and shape[0] == 1:  # as transformers' Conv1D has it
        return Change.to(new, shape[1:])
    kernel = word in ("kernel", "pointwise_kernel")
    return Change.to(new, None, outputs_first(len(shape)) if kernel else None)


def _own_name(parts: list[str]) -> list[str]:
    """A weight's name without that of the layer under which a file has it, ``dense/dense/kernel``, and of the model,
    ``dense/sequential/dense/kernel``; transformers' models begin with "tf".
    """
    if len(parts) > 3 and (parts[2] == parts[0] or parts[1].startswith("tf")):
        return parts[2:]
    return parts[1:] if len(parts) > 2 and parts[1] == parts[0] else parts
