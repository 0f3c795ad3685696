"""The weights that Keras quantized (``model.quantize("int8")``), found among its layers' variables.

How a layer can be read follows from its variables' types and shapes (`keras_readings`). Where several readings fit, its
dtype policy in the configuration decides, or that of the others. A file of weights alone has no configuration: there,
what is certain about other layers decides, and else 8 bits are int8, which is said (`Found.assumed`). What cannot be
told is `UNREAD`. A LoRA that is enabled is merged when Keras saves, and leaves no tensor.

Source: keras/src/dtype_policies/dtype_policy.py; keras/src/layers/core, `save_own_variables` of each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.notes import BY_KERAS, UNREAD, VALUES, QuantizedWeight
from ckptconv.edits.dialects import keras_einsum as einsum
from ckptconv.edits.dialects.keras_config import DOCUMENTS, layers_in
from ckptconv.edits.dialects.keras_layers import groups_of
from ckptconv.edits.dialects.keras_readings import (
    DIVIDED,
    FLOAT8,
    INT4,
    INT8,
    KEPT,
    Reading,
    Stored,
    dense_readings,
    einsum_readings,
    embedding_readings,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.keras_layers import Variables

    Infos = Mapping[str, TensorInfo]
    Shape = tuple[int, ...]

SCHEME = "keras"

_SMALL = (DType.I8, DType.U8)
_EINSUM = "einsum_dense"
_EMBEDDINGS = ("embedding", "reversible_embedding")
_ABOUT, _VERSION = "metadata.json", re.compile(r"(\d+)\.(\d+)")
_PACKED_ALONG_OUTPUTS = (3, 14)
"""The version of Keras from which on all kernels of 4 bits are packed along what the output keeps."""

_WORDS = (
    ("kernel", "bias", "kernel_scale", "kernel_zero", "g_idx"),
    ("bias", "kernel", "kernel_scale", "kernel_zero", "zero_point", "awq_scales", "g_idx"),
    ("embeddings", "embeddings_scale", "embeddings_zero", "g_idx", "reverse_embeddings", "reverse_embeddings_scale",
     "reverse_embeddings_zero"),
    ("kernel", "bias", "inputs_scale", "inputs_amax_history", "kernel_scale", "kernel_amax_history",
     "outputs_grad_scale", "outputs_grad_amax_history"),
)  # fmt: skip
"""The orders in which Keras numbers variables; in files that name them, they are put into one of these."""


@dataclass(slots=True)
class Found:
    """The quantized weights, and what else quantizing has left.

    weights: the weights, under the names that the plain ones have in Keras.
    beside:  variables for training in float8.
    assumed: the first weight that is read as int8 and could be int4 of a Keras before 3.14; "" if there is none.
    """

    weights: list[QuantizedWeight] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    assumed: str = ""


def find(tensors: Infos, metadata: Mapping[object, object]) -> Found:
    """What is quantized. Reads nothing."""
    found = Found()
    if not any(info.dtype in _SMALL or not info.shape for info in tensors.values()):
        return found
    groups = list(groups_of(tensors, metadata))
    biases = _biases(groups, tensors)
    modes, version = _modes(metadata), _version(metadata)
    layers = [_Layer(group, tensors, biases, names) for group in groups for names in _orders(group, tensors)]
    fitting = [
        _of_mode(layer.readings(), layer.mode or (modes if len(modes) == 1 else set()), version) for layer in layers
    ]
    certain = {readings[0].mode for readings in fitting if len(readings) == 1}
    for layer, readings in zip(layers, fitting, strict=True):
        if len(readings) > 1 and certain == {INT4}:
            readings = [one for one in readings if one.mode == INT4]
        elif len(readings) > 1 and readings[0].mode == INT8 and all(one.mode == INT4 for one in readings[1:]):
            found.assumed = found.assumed or layer.names[0]
            readings = readings[:1]
        layer.add(readings, found)
    return found


def mode_of(policy: object) -> str:
    """The mode of quantizing in a dtype policy, as a configuration has it: "int8", or "" if it is none."""
    settings = policy.get("config") if isinstance(policy, Mapping) else None
    mode = settings.get("mode") if isinstance(settings, Mapping) else None
    return mode.partition("/")[0] if isinstance(mode, str) else ""


def plain_policy(policy: Mapping[object, object]) -> dict[str, Json]:
    """The policy that a quantized one was made from."""
    settings = policy.get("config")
    source = settings.get("source_name") if isinstance(settings, Mapping) else None
    name = source if isinstance(source, str) else "float32"
    return {"module": "keras", "class_name": "DTypePolicy", "config": {"name": name}, "registered_name": None}


@dataclass(slots=True)
class _Layer:
    """A layer's variables.

    biases: the shapes of biases of rank 2, by the path of the layer around and the layer's name in it.
    names:  the variables' names, in the order in which Keras numbers them.
    """

    group: Variables
    tensors: Infos
    biases: Mapping[str, Mapping[str, Shape]]
    names: list[str]

    @property
    def mode(self) -> set[str]:
        """The mode that the configuration states for this layer: of none, "", if it is in the configuration."""
        return set() if self.group.layer is None else {mode_of(self.group.layer.settings.get("dtype"))}

    @property
    def is_einsum(self) -> bool:
        """Whether it is an EinsumDense: by its class, or because it is part of an attention."""
        called = self.group.called
        if called == _EINSUM or self.group.layer is not None or called not in einsum.EQUATIONS:
            return called == _EINSUM
        around = self.group.path.rpartition("/")[0]
        in_attention = self.group.around is not None and "Attention" in self.group.around.class_name
        return in_attention or around in self.biases or len(self.tensors[self.names[0]].shape) > 2

    def readings(self) -> list[Reading]:
        """All ways to read it that its class, if that is known, allows."""
        infos, layer, called = [self.tensors[name] for name in self.names], self.group.layer, self.group.called
        settings, built = (layer.settings, layer.built) if layer is not None else ({}, {})
        found: list[Reading] = []
        if self.is_einsum:
            kernel, scale = infos[0].shape, infos[-1].shape
            equation = einsum.equation_of(layer, called, len(kernel))
            return list(
                einsum_readings(infos, einsum.kept(equation) if equation else einsum.kept_by_sizes(kernel, scale))
            )
        if called not in _EMBEDDINGS:
            inputs = built.get("input_shape")
            last = inputs[-1] if isinstance(inputs, (list, tuple)) and inputs else None
            found += dense_readings(infos, last if type(last) is int else None)
        if called != "dense":
            width = settings.get("output_dim")
            found += embedding_readings(infos, width if type(width) is int else None)
        return found

    def add(self, readings: list[Reading], found: Found) -> None:
        """Note the weights, if there is one reading; else, if something is quantized, that it is not read."""
        first = next((name for name in self.names if self.tensors[name].dtype in _SMALL), "")
        if len(readings) == 1:
            mode = readings[0].mode
            for number, stored in enumerate(readings[0].weights):
                found.weights.append(self._weight(mode, number, stored))
            if mode == FLOAT8:
                used = {*readings[0].weights[0].roles.values(), *range(1, len(self.names) - 6)}
                found.beside += [name for number, name in enumerate(self.names) if number not in used]
        elif first and len(self.names) > 1 and len(self.tensors[first].shape) > 1:
            why = "which can be read in several ways" if readings else "of a layer that is not known"
            found.weights.append(_unread(first, f"{BY_KERAS} of 8 bits or less", why))

    def _weight(self, mode: str, number: int, stored: Stored) -> QuantizedWeight:
        parts = {role: self.names[place] for role, place in stored.roles.items()}
        called = f"{BY_KERAS} {mode}"
        if stored.why:
            return _unread(parts[VALUES], called, stored.why)
        shape = self._shape(stored)
        if stored.size is None or shape is None:
            return _unread(parts[VALUES], called, "of which nothing in the file says the shape: a .keras does")
        name = parts[VALUES]
        if self.group.numbered:
            name = f"{self.names[0].rpartition('/')[0]}/{number}"
        details: dict[str, Json] = {
            "form": stored.form,
            **stored.details,
            "size": list(stored.size),
            "shape": list(shape),
        }
        return QuantizedWeight(name, SCHEME, parts, details, called)

    def _shape(self, stored: Stored) -> Shape | None:
        """The weight's shape; None if nothing says it."""
        size, called = stored.size, self.group.called
        if size is None or not self.is_einsum or stored.form == KEPT:
            return size
        if stored.form == DIVIDED and stored.details["bits"] == 8:
            return size
        shape = einsum.stated_shape(self.group.layer, prod(size))
        if shape is None and called in einsum.EQUATIONS and len(size) == 2:
            inside = self.biases.get(self.group.path.rpartition("/")[0], {})
            shape = einsum.shape_in_attention(called, self.group.around, inside, (size[0], size[1]))
        return shape if shape is not None and prod(shape) == prod(size) else None


def _orders(group: Variables, tensors: Infos) -> Iterator[list[str]]:
    """The variables' names in Keras' order, if they can be those of a quantized layer."""
    known = group.names
    if group.numbered:
        yield list(known.values())
        return
    for words in _WORDS:
        ordered = [known[word] for word in words if word in known]
        if (
            len(ordered) > 1
            and len(ordered) == len(known)
            and ("kernel" not in known or _is_first(words, known, tensors))
        ):
            yield ordered
            return


def _is_first(words: tuple[str, ...], known: Mapping[str, str], tensors: Infos) -> bool:
    """Whether the order is the one for kernels of this type: those of U8 come after the bias."""
    return (words[0] == "bias") == (tensors[known["kernel"]].dtype is DType.U8)


def _of_mode(readings: list[Reading], modes: set[str], version: tuple[int, ...]) -> list[Reading]:
    """The readings of these modes, if any are given, that this version of Keras, if it is known, has stored."""
    fitting = [one for one in readings if not modes or one.mode in modes]
    is_new = version >= _PACKED_ALONG_OUTPUTS
    return [one for one in fitting if not (one.old and is_new)]


def _biases(groups: list[Variables], tensors: Infos) -> dict[str, dict[str, Shape]]:
    """The shapes of biases of rank 2 in quantized layers, by the path of the layer around and the name in it."""
    found: dict[str, dict[str, Shape]] = {}
    for group in groups:
        around, _, name = group.path.rpartition("/")
        for names in _orders(group, tensors):
            infos = [tensors[name] for name in names]
            turned = len(infos) > 1 and infos[1].dtype is DType.U8
            if turned or (infos[0].dtype is DType.I8 and len(infos) in (3, 5)):
                shape = infos[0 if turned else 1].shape
                if len(shape) == 2:
                    found.setdefault(around, {})[name.removesuffix("_dense")] = shape
    return found


def _modes(metadata: Mapping[object, object]) -> set[str]:
    """The modes that the configuration states for any layer."""
    policies = (layer.settings.get("dtype") for key in DOCUMENTS for layer in layers_in(metadata.get(key)))
    return {mode for mode in map(mode_of, policies) if mode}


def _version(metadata: Mapping[object, object]) -> tuple[int, ...]:
    """Keras' version; () if it is not stated."""
    about = metadata.get(_ABOUT)
    stated = about.get("keras_version") if isinstance(about, Mapping) else metadata.get("keras_version")
    match = _VERSION.match(stated) if isinstance(stated, str) else None
    return (int(match[1]), int(match[2])) if match else ()


def _unread(name: str, called: str, why: str) -> QuantizedWeight:
    return QuantizedWeight(name, UNREAD, {VALUES: name}, {"why": why}, called)
