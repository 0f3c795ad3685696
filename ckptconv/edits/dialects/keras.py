"""Keras' layers, under the names that its own files and TensorFlow's checkpoints give them.

    kernel [..., in, out] → weight [out, in, ...]      gamma, beta, embeddings → weight, bias, weight
    moving_mean, moving_variance → running_mean, running_var
    depthwise_kernel [..., in, times] → weight [in * times, 1, ...]; in a layer that also has a pointwise_kernel, the
    two become depthwise.weight and pointwise.weight

Slashes become dots. Removed are the layer's name that Keras puts before a weight's own, the ":0" at the end, and what
transformers adds to make torch's names unique there (layer_._0, x___y). Keras 3 numbers a layer's variables
(``layers/dense/vars/0``); what they are follows from the layer's class, after which its group is called (`numbered`).
The heads of an attention, kernel [in, heads, width] and [heads, width, out], become one dimension.

In Keras 3 the kernel of a depthwise convolution is called like any other; it is recognized by the name that such layers
get by default. Recurrent layers are in `keras_recurrent`.
Sources: keras/src/layers; transformers' modeling_tf_pytorch_utils.py (up to 4.x).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.edits.dialects import keras_quantized, keras_recurrent, numbered
from ckptconv.edits.dialects.attention import without_heads
from ckptconv.edits.dialects.change import Change, outputs_first
from ckptconv.edits.dialects.keras_config import Configuration
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.change import Shape

_WORDS = {
    "kernel": "weight", "gamma": "weight", "scale": "weight", "embeddings": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var", "depthwise_kernel": "weight",
}  # fmt: skip
_SEPARABLE = ("depthwise_kernel", "pointwise_kernel")
_ATTENTION = ("query", "key", "value", "attention_output")
_NUMBER = re.compile(r":\d+$")
_DEPTHWISE = re.compile(r"depthwise_conv\dd(_\d+)?")


def changes(tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object]) -> dict[str, Change]:
    """The change of each tensor. Raises EditError if Keras quantized any: torch has no such variables."""
    if quantized := keras_quantized.find(tensors, metadata).weights:
        raise EditError(
            f"--translate keras: {quantized[0].values!r} is quantized ({quantized[0].called})",
            hint="add --dequantize, which comes first: torch has no such layers",
        )
    configuration = Configuration.of(metadata)
    paths, twins = _paths(tensors, metadata, configuration)
    shapes = {paths[name]: info.shape for name, info in tensors.items()}
    recurrent = keras_recurrent.changes(paths, shapes, configuration)
    changed = {
        name: recurrent[name] if name in recurrent else _change(paths[name], info.shape, shapes)
        for name, info in tensors.items()
    }
    return {name: replace(change, twin=twins.get(name, "")) for name, change in changed.items()}


def _paths(
    tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object], configuration: Configuration
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Each tensor's path: its modules and Keras' word for the variable. And the tensors that should be copies of others
    (twins), each with the other.

    A weight that two layers share is stored under both. The second one's path keeps the name of its own layer.
    """
    counts = Counter(name.rpartition("/")[0] for name in tensors)
    found: dict[str, tuple[str, ...]] = {}
    twins: dict[str, str] = {}
    first: dict[tuple[str, ...], str] = {}
    for name in tensors:
        parts = _parts(name)
        path = numbered.path_of(parts, counts, metadata, configuration) or _own_name(parts)
        if path in first:
            twins[name] = first[path]
            path = tuple(parts)
        found[name] = path
        first.setdefault(path, name)
    return found, twins


def _parts(name: str) -> list[str]:
    path = _NUMBER.sub("", name).replace("_._", "/")
    return [part.rpartition("___")[2] for part in path.split("/") if part] or [name]


def _change(path: tuple[str, ...], shape: Shape, shapes: Mapping[tuple[str, ...], Shape]) -> Change:
    *modules, word = path
    separable = word in _SEPARABLE and all((*modules, each) in shapes for each in _SEPARABLE)
    new = ".".join((*modules, word.replace("_kernel", ".weight") if separable else _WORDS.get(word, word)))
    is_depthwise = word == "kernel" and modules and _DEPTHWISE.fullmatch(modules[-1])
    if (word == "depthwise_kernel" or is_depthwise) and len(shape) > 2:
        *window, inputs, times = shape
        flat = (*window, 1, inputs * times)
        return Change.to(new, flat, outputs_first(len(flat)))
    if word == "bias" and len(shape) == 2 and shape[0] == 1:  # as transformers' Conv1D has it
        return Change.to(new, shape[1:])
    joined = without_heads(path, shape, shapes, _ATTENTION)
    kernel = word in ("kernel", "pointwise_kernel")
    return Change.to(new, joined, outputs_first(len(joined or shape)) if kernel else None)


def _own_name(parts: list[str]) -> tuple[str, ...]:
    """A weight's path without the layer's name that a file repeats (``dense/dense/kernel``), and without the model's
    (``dense/sequential/dense/kernel``); transformers' models begin with "tf". If a layer was created twice, the
    repeated name has a number (``dense_1/dense_1_1/kernel``), which is removed too.
    """
    for at in (2, 1):
        if len(parts) > at + 1 and re.fullmatch(re.escape(parts[0]) + r"(_\d+)?", parts[at]):
            return (parts[0], *parts[at + 1 :])
    return tuple(parts[2:] if len(parts) > 3 and parts[1].startswith("tf") else parts)
