"""Tensors of the model that are inside of another value of its state_dict, and have names of their own in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from ckptconv.formats.torch.calls.new_objects import SCRIPTED
from ckptconv.formats.torch.pickle import UnbuiltObject
from ckptconv.formats.torch.values.stubs import TensorStub, WrappedTensor
from ckptconv.io.limits import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.torch.pickle import Value
    from ckptconv.formats.torch.tree.modules import Path


_OBJECTS = ("param", "_packed_weight_ih", "_packed_weight_hh")
"""The last parts of the keys of recurrent layers' objects."""


class InnerTensor(NamedTuple):
    """A tensor in the state of a wrapped one: its path there, and those keys of the path that make up its name."""

    path: Path
    keys: tuple[str, ...]
    stub: TensorStub


def tensors_within(value: Value) -> Iterator[InnerTensor]:
    """The tensors in the state of a wrapped tensor, or in the parts of a packed one."""
    return _tensors_within(value, (), (), set())


def _tensors_within(value: Value, path: Path, keys: tuple[str, ...], seen: set[int]) -> Iterator[InnerTensor]:
    if isinstance(value, TensorStub):
        yield InnerTensor(path, keys, value)
        return
    if id(value) in seen or len(path) > MAX_DEPTH:
        return
    seen.add(id(value))
    if (isinstance(value, WrappedTensor) or _is_scripted(value)) and isinstance(value.state, tuple):
        # The state of a class with slots is a pair: its __dict__, and its slots; of an object of C++, with its class.
        for i, part in enumerate(value.state):
            yield from _tensors_within(part, (*path, "state", i), keys, seen)
    elif isinstance(value, WrappedTensor):
        yield from _tensors_within(value.state, (*path, "state"), keys, seen)
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _tensors_within(child, (*path, key), (*keys, str(key)), seen)
    elif isinstance(value, (list, tuple)):
        for i, child in enumerate(value):
            yield from _tensors_within(child, (*path, i), (*keys, str(i)), seen)


def is_packed(key: str, value: Value) -> bool:
    """Whether an entry of a state_dict is a quantized layer's weight and bias: a tuple
    (torch/ao/nn/quantized/modules/linear.py, `LinearPackedParams._save_to_state_dict`), or a recurrent layer's object
    of C++ (torch/ao/nn/quantized/dynamic/modules/rnn.py).
    """
    last = key.rpartition(".")[2]
    return (last == "_packed_params" and isinstance(value, tuple)) or (last in _OBJECTS and _is_scripted(value))


def _is_scripted(value: Value) -> TypeGuard[UnbuiltObject]:
    """Whether it is an object of one of torch's classes of C++, whose loading is no call."""
    return isinstance(value, UnbuiltObject) and value.name == SCRIPTED and value.how == "object"
