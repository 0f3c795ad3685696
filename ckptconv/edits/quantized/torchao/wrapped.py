"""Reads how a file describes a tensor of one of torchao's classes: by an object in a pickle, or by a text in JSON.

In a pickle, an object of the class has the tensors as attributes, and they are named after the weight and the attribute
(``m.w.qdata``). In safetensors (`flatten_tensor_state_dict`, as transformers writes it) they are named ``m._w_qdata``,
and the metadata has a text in JSON for each weight, and the names of all tensors under ``tensor_names``:

    {"_type": CLASS, "_data": {ATTRIBUTE: VALUE or {"_type": …, "_data": …}}, "_tensor_data_names": [ATTRIBUTE…]}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.metadata import Opaque, TensorRef, TorchValue, children
from ckptconv.edits.quantized.torchao.marks import NAMES, PACKAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.metadata import MetaNode

_ARGUMENTS = 7
"""How many torch's `_rebuild_wrapper_subclass` takes: dtype, size, strides, offset, layout, device, requires_grad."""

_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A tensor of one of torchao's classes.

    kind:          its class, without the module.
    dtype:         the type that it stands for; "" if unknown.
    shape:         the shape that it stands for; None if unknown.
    is_transposed: whether it is a transposed view.
    attributes:    its attributes that are plain values.
    tensors:       the names of the tensors that it holds, by attribute.
    inner:         the wrapped tensors that it holds, by attribute.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...] | None
    is_transposed: bool
    attributes: Mapping[str, object]
    tensors: Mapping[str, str]
    inner: Mapping[str, Wrapped]

    @property
    def every_tensor(self) -> list[str]:
        """The names of all tensors in it, at any depth."""
        return [*self.tensors.values(), *(name for wrapped in self.inner.values() for name in wrapped.every_tensor)]


def is_tensor(node: MetaNode) -> bool:
    """Whether an object is a tensor of one of torchao's classes."""
    return (
        isinstance(node, Opaque) and node.name.startswith(PACKAGE) and node.how == "object"
        and len(node.args) == _ARGUMENTS and isinstance(node.args[0], TorchValue) and node.args[0].kind == "dtype"
    )  # fmt: skip


def objects_in(node: MetaNode) -> Iterator[tuple[str, Wrapped]]:
    """Every such tensor in the metadata of a pickle, by the name of the weight."""
    if is_tensor(node):
        assert isinstance(node, Opaque)
        name = _whole_name(node)
        if name is not None:
            yield name, of_object(node)
        return
    for _, child in children(node):
        yield from objects_in(child)


def of_object(node: Opaque) -> Wrapped:
    """A pickled object as a wrapped tensor."""
    state = _attributes(node.state)
    dtype, size, strides = node.args[:3]
    module, _, kind = node.name.rpartition(".")
    if kind.startswith("_"):  # such as q_dq_layout's
        kind = f"{module.rpartition('.')[2]}.{kind}"
    return Wrapped(
        kind,
        _TYPES.get(dtype.name, "") if isinstance(dtype, TorchValue) else "",
        sizes(size),
        _is_transposed(sizes(size), sizes(strides)),
        {key: value for key, value in state.items() if not isinstance(value, TensorRef) and not is_tensor(value)},
        {key: value.name for key, value in state.items() if isinstance(value, TensorRef)},
        {key: of_object(value) for key, value in state.items() if isinstance(value, Opaque) and is_tensor(value)},
    )


def _is_transposed(size: tuple[int, ...] | None, strides: tuple[int, ...] | None) -> bool:
    """Whether elements of the last dimension are not adjacent in memory."""
    return bool(size and strides and len(size) == len(strides) > 1 and size[-1] > 1 and strides[-1] != 1)


def _attributes(state: MetaNode) -> dict[str, MetaNode]:
    """The state as a dict. That of a class with slots is a pair: its ``__dict__``, and its slots."""
    attributes: dict[str, MetaNode] = {}
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            attributes |= {key: value for key, value in part.items() if isinstance(key, str)}
    return attributes


def _whole_name(node: Opaque) -> str | None:
    """The weight's name: that of its first tensor, without the attributes that lead to this tensor."""
    for path, name in _tensor_paths(node, ()):
        whole = name.removesuffix(".".join(("", *path)))
        return whole if whole != name else None
    return None


def _tensor_paths(node: Opaque, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in _attributes(node.state).items():
        if isinstance(value, TensorRef):
            yield (*path, key), value.name
        elif isinstance(value, Opaque) and is_tensor(value):
            yield from _tensor_paths(value, (*path, key))


def texts_in(metadata: Mapping[object, object]) -> Iterator[tuple[str, Wrapped]]:
    """Every such tensor that the strings of a safetensors file describe, by the name of the weight. Strings that
    torchao would not write are skipped.
    """
    for name in listed_names(metadata):
        found = _read(metadata.get(name))
        parts = found.get("_tensor_data_names") if isinstance(found, dict) else None
        if isinstance(found, dict) and isinstance(parts, list):
            yield name, _of_text(name, found, [part for part in parts if isinstance(part, str)])


def listed_names(metadata: Mapping[object, object]) -> list[str]:
    """The names of all tensors, as the metadata lists them."""
    found = _read(metadata.get(NAMES))
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _of_text(name: str, found: dict[str, object], parts: list[str]) -> Wrapped:
    module, dot, last = name.rpartition(".")
    data = found.get("_data")
    attributes: dict[str, object] = data if isinstance(data, dict) else {}
    dtype = dtype_name(attributes.get("dtype", attributes.get("orig_dtype")))
    tensors = {part: f"{module}{dot}_{last}_{part}" for part in parts}
    shape = sizes(attributes.get("shape"))
    return Wrapped(str(found.get("_type"))[:80], _TYPES.get(dtype, ""), shape, False, attributes, tensors, {})


def _read(text: object) -> object:
    if not isinstance(text, str):
        return None
    try:
        found: object = strict_json.loads(text)
    except ValueError:
        return None
    return found


def sizes(value: object) -> tuple[int, ...] | None:
    """A shape, or other sizes; None if the value is not a list of integers."""
    if not isinstance(value, list | tuple) or any(type(size) is not int for size in value):
        return None
    return tuple(value)


def dtype_name(value: object) -> str:
    """An element type's name in torch, ``"int4"``; "" if the value is not one. Some are given as texts."""
    if isinstance(value, dict) and value.get("_type") == "torch.dtype":
        value = value.get("_data")
    if isinstance(value, TorchValue) and value.kind == "dtype":
        return value.name
    return value if isinstance(value, str) else ""


def number_of(value: object) -> int | None:
    """The number of a member of an enum."""
    found = value.args[0] if isinstance(value, Opaque) and len(value.args) == 1 else value
    return found if type(found) is int else None
