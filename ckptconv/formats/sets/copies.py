"""A model's weights as other frameworks have them, under the names that these have on the Hugging Face hub.

    tf_model.h5          transformers, TensorFlow         model.weights.h5     KerasHub
    flax_model.msgpack   transformers, Flax               model.keras          Keras
    model.onnx           Optimum, ONNX                    openvino_model.xml   Optimum, OpenVINO
    rust_model.ot        rust-bert

A folder without weights of torch or safetensors stands for the first of these that it has, in the order in which
they are tried here: transformers' own come first (TensorFlow's before Flax's, as in its `from_pretrained`), then
those that have layers, then graphs. The others are copies of it. Names that anyone may give (``model.onnx``) count
only where no other file looks like weights, such as a trainer's ``best.pth``.
Source: transformers 4.49, modeling_utils.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "tf_model.h5", "flax_model.msgpack", "model.keras", "model.weights.h5", "model.onnx", "openvino_model.xml",
    "rust_model.ot",
)  # fmt: skip
"""The names, in the order in which one is chosen."""

GRAPHS = NAMES[NAMES.index("model.onnx") :]
"""Those that are graphs, made from one of the others."""

_ANYONES = ("model.keras", "model.weights.h5", "model.onnx")
_GRAPH_DATA = "openvino_model.bin"
_WEIGHTS = (
    ".pth", ".pt", ".ckpt", ".bin", ".pkl", ".safetensors", ".h5", ".hdf5", ".keras", ".onnx", ".msgpack", ".npz",
    ".npy", ".gguf", ".tflite", ".pb", ".index",
)  # fmt: skip


def copies_in(names: Iterable[str]) -> list[str]:
    """Those of a folder's files that are weights for other frameworks than torch, the one to read first."""
    there = set(names)
    return [name for name in NAMES if name in there]


def stand_for_folder(names: Iterable[str]) -> list[str]:
    """The same, if the first of them is what the folder stands for; else none."""
    files = list(names)
    copies = copies_in(files)
    return copies if not _others_in(files) or not set(copies) <= set(_ANYONES) else []


def _others_in(names: Iterable[str]) -> list[str]:
    """The files that look like weights, and have none of the names."""
    return [name for name in names if name.endswith(_WEIGHTS) and name not in (*NAMES, _GRAPH_DATA)]


def chosen_finding(copies: list[str], names: Iterable[str]) -> Finding:
    """Which file of a folder is read, and which others are not. `names`: those of all files in the folder."""
    read, *more = copies
    left = [f"no other copy: {quoted(more)}"] if more else []
    if others := _others_in(names):
        left.append(f"not what else looks like weights: {quoted(others, 6)}")
    rest = f", and {', and '.join(left)}" if left else ", the one file of weights of this folder"
    return Finding("file", "info", read, f"{read!r} is read{rest}")
