"""What torch loads, converted to our metadata tree, to compare the two in value and in type."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ckptconv.core.metadata import MetaNode, NumpyArray, NumpyScalar, TorchSize, TorchValue
from ckptconv.core.spelling import same

if TYPE_CHECKING:
    from pathlib import Path

_CONSTANTS = {torch.dtype: "dtype", torch.qscheme: "qscheme", torch.memory_format: "memory_format"}


def as_node(value: object) -> MetaNode:
    """The node for a Python object without tensors. Raises TypeError on anything else."""
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes() | bytearray() if (
            type(value).__module__ == "builtins"
        ):
            return value
        case torch.Size():
            return TorchSize(value)
        case torch.device():
            return TorchValue("device", str(value))
        case torch.layout():
            return TorchValue("layout", str(value).removeprefix("torch."))
        case torch.dtype() | torch.qscheme() | torch.memory_format():
            return TorchValue(_CONSTANTS[type(value)], str(value).removeprefix("torch."))  # type: ignore[arg-type]
        case np.generic():
            return NumpyScalar(value.dtype.str, value.tobytes())
        case np.ndarray():
            fortran = value.ndim > 1 and value.flags.f_contiguous and not value.flags.c_contiguous
            return NumpyArray(value.dtype.str, value.shape, value.tobytes("F" if fortran else "C"), fortran)
        case Counter():
            return Counter({as_node(key): as_node(item) for key, item in value.items()})
        case OrderedDict():
            return OrderedDict((as_node(key), as_node(item)) for key, item in value.items())
        case defaultdict():
            return defaultdict(value.default_factory, {as_node(k): as_node(item) for k, item in value.items()})
        case dict() if type(value) is dict:
            return {as_node(key): as_node(item) for key, item in value.items()}
        case list() if type(value) is list:
            return [as_node(item) for item in value]
        case tuple() if type(value) is tuple:
            return tuple(as_node(item) for item in value)
        case set() | frozenset():
            return type(value)(as_node(item) for item in value)
        case _:
            raise TypeError(f"{type(value)} is not expected here")


def as_python(node: MetaNode) -> object:
    """The Python object that a node stands for."""
    match node:
        case TorchSize():
            return torch.Size(node)
        case TorchValue("device", name):
            return torch.device(name)
        case TorchValue(_, name):
            return getattr(torch, name)
        case NumpyScalar(dtype, data):
            return np.frombuffer(data, dtype=dtype)[0]
        case NumpyArray(dtype, shape, data, fortran):
            return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C").copy(order="K")
        case Counter():
            return Counter({as_python(key): as_python(item) for key, item in node.items()})
        case OrderedDict():
            return OrderedDict((as_python(key), as_python(item)) for key, item in node.items())
        case defaultdict():
            return defaultdict(node.default_factory, {as_python(k): as_python(item) for k, item in node.items()})
        case dict():
            return {as_python(key): as_python(item) for key, item in node.items()}
        case list():
            return [as_python(item) for item in node]
        case tuple():
            return tuple(as_python(item) for item in node)
        case set() | frozenset():
            return type(node)(as_python(item) for item in node)
        case _:
            return node


def image(tensor: torch.Tensor) -> bytes:
    """The bytes of the tensor's elements in C order, little-endian."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def same_object(ours: object, theirs: object) -> bool:
    """Whether both are equal in value and type at every level, dict order included; tensors by header and bits."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        facts = [(t.dtype, t.shape, t.requires_grad, t.device) for t in (ours, theirs)]
        return facts[0] == facts[1] and image(ours) == image(theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if isinstance(ours, defaultdict) and ours.default_factory is not theirs.default_factory:  # type: ignore[attr-defined]
            return False
        return same_object(list(ours.items()), list(theirs.items()))
    if isinstance(ours, (list, tuple)) and not isinstance(ours, torch.Size) and isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same_object, ours, theirs))
    return same(as_node(ours), as_node(theirs))


def load(path: Path, *, weights_only: bool = True) -> Any:
    """Load a .pth with torch."""
    return torch.load(path, map_location="cpu", weights_only=weights_only)


def plain_text(error: BaseException) -> bool:
    """Whether an error is one line for people: no line feed, no full stop, lower case."""
    text = str(error)
    return bool(text) and "\n" not in text and not text.endswith(".") and not re.match(r"[A-Z][a-z]+ ", text)
