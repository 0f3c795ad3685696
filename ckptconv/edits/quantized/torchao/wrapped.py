"""What a file says of a tensor of one of torchao's classes, whoever wrote it: a pickle's object, or a text in JSON.

In a pickle an object of the class holds the tensors as attributes, which go by the weight's name and theirs
(``m.w.qdata``). In safetensors (`flatten_tensor_state_dict`, as transformers writes it) they are called ``m._w_qdata``,
and the metadata has a text in JSON for each weight, and the names of all tensors as ``tensor_names``:

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
"""Of torch's `_rebuild_wrapper_subclass`: dtype, size, strides, offset, layout, device, requires_grad."""

_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True, slots=True)
class Wrapped:
    """One tensor.

    kind:    its class, without the module. dtype: what it is to be computed as, "" where that is not said.
    shape:   as it looks from outside; None where that is not said. turned: whether it is a transposed view.
    said:    its attributes; tensors: those that are tensors, by the names of these; inside: those that wrap others.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...] | None
    turned: bool
    said: Mapping[str, object]
    tensors: Mapping[str, str]
    inside: Mapping[str, Wrapped]

    @property
    def every_tensor(self) -> list[str]:
        """The names of all tensors in it."""
        return [*self.tensors.values(), *(name for one in self.inside.values() for name in one.every_tensor)]


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
    """What an object's state says of it."""
    state = _attributes(node.state)
    dtype, size, strides = node.args[:3]
    module, _, kind = node.name.rpartition(".")
    if kind.startswith("_"):  # such as q_dq_layout's
        kind = f"{module.rpartition('.')[2]}.{kind}"
    return Wrapped(
        kind,
        _TYPES.get(dtype.name, "") if isinstance(dtype, TorchValue) else "",
        sizes(size),
        _is_turned(sizes(size), sizes(strides)),
        {key: value for key, value in state.items() if not isinstance(value, TensorRef) and not is_tensor(value)},
        {key: value.name for key, value in state.items() if isinstance(value, TensorRef)},
        {key: of_object(value) for key, value in state.items() if isinstance(value, Opaque) and is_tensor(value)},
    )


def _is_turned(size: tuple[int, ...] | None, strides: tuple[int, ...] | None) -> bool:
    """Whether the last dimension is not the one whose elements lie side by side."""
    return bool(size and strides and len(size) == len(strides) > 1 and size[-1] > 1 and strides[-1] != 1)


def _attributes(state: MetaNode) -> dict[str, MetaNode]:
    """The state as a dict: where a class has slots it is a pair, what is in its dict and what is in them."""
    made: dict[str, MetaNode] = {}
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            made |= {key: value for key, value in part.items() if isinstance(key, str)}
    return made


def _whole_name(node: Opaque) -> str | None:
    """What the weight is called: as its first tensor, without the attributes that lead to that one."""
    for words, name in _first(node, ()):
        whole = name.removesuffix(".".join(("", *words)))
        return whole if whole != name else None
    return None


def _first(node: Opaque, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in _attributes(node.state).items():
        if isinstance(value, TensorRef):
            yield (*words, key), value.name
        elif isinstance(value, Opaque) and is_tensor(value):
            yield from _first(value, (*words, key))


def texts_in(metadata: Mapping[object, object]) -> Iterator[tuple[str, Wrapped]]:
    """Every such tensor of which the strings of a safetensors file tell, by the name of the weight. What is not as
    torchao writes it is passed over.
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
    said: dict[str, object] = data if isinstance(data, dict) else {}
    dtype = dtype_name(said.get("dtype", said.get("orig_dtype")))
    tensors = {part: f"{module}{dot}_{last}_{part}" for part in parts}
    shape = sizes(said.get("shape"))
    return Wrapped(str(found.get("_type"))[:80], _TYPES.get(dtype, ""), shape, False, said, tensors, {})


def _read(text: object) -> object:
    if not isinstance(text, str):
        return None
    try:
        found: object = strict_json.loads(text)
    except ValueError:
        return None
    return found


def sizes(value: object) -> tuple[int, ...] | None:
    """A shape, or other sizes; None where the value is none."""
    if not isinstance(value, list | tuple) or any(type(size) is not int for size in value):
        return None
    return tuple(value)


def dtype_name(value: object) -> str:
    """What torch calls an element type, ``"int4"``; "" where the value is none. A few are texts."""
    if isinstance(value, dict) and value.get("_type") == "torch.dtype":
        value = value.get("_data")
    if isinstance(value, TorchValue) and value.kind == "dtype":
        return value.name
    return value if isinstance(value, str) else ""


def number_of(value: object) -> int | None:
    """The number of a member of an enum."""
    found = value.args[0] if isinstance(value, Opaque) and len(value.args) == 1 else value
    return found if type(found) is int else None
