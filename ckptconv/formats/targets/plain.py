"""What an object of a class that is not built becomes where a target cannot hold it, and that was agreed to.

Settings of OmegaConf become the values in them, a TensorDict the dict that it is, a pickled module the dict that its
``state_dict()`` would be, anything else a dict that describes it: no writer ever names a class of a file.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ckptconv.core.metadata import Opaque
from ckptconv.formats.trees.omegaconf import is_settings, plain_settings
from ckptconv.formats.trees.tensordicts import is_tensordict, plain_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.metadata import MetaNode

_DICTS = ("_parameters", "_buffers", "_modules")


def becomes(opaque: Opaque) -> str:
    """In words, what `as_plain` gives."""
    if is_settings(opaque):
        return "its plain values"
    if is_tensordict(opaque):
        return "a dict of its tensors"
    return "its state_dict" if _state_dict(opaque) else "a plain dict"


def as_plain(opaque: Opaque) -> MetaNode:
    """The object as plain data; other objects may be in it."""
    if is_settings(opaque):
        return plain_settings(opaque)
    if is_tensordict(opaque):
        return plain_dict(opaque)
    if state := _state_dict(opaque):
        return state
    described: dict[str, MetaNode] = {"class": opaque.name, "how": opaque.how}
    if opaque.args:
        described["args"] = opaque.args
    if opaque.kwargs:
        described["kwargs"] = opaque.kwargs
    if opaque.state is not None:
        described["state"] = opaque.state
    if opaque.items:
        described["items"] = opaque.items
    if opaque.pairs:
        described["pairs"] = opaque.pairs
    return described


def is_module(how: str, state: object) -> bool:
    """Whether an object is a pickled ``nn.Module``, by what its state holds; its class need not be known."""
    return how == "object" and isinstance(state, dict) and all(isinstance(state.get(key), dict) for key in _DICTS)


def own_tensors(state: dict[Any, Any]) -> Iterator[tuple[str, str, Any]]:
    """A module's own parameters and persistent buffers: the dict that holds each, its key, the tensor."""
    passing = state.get("_non_persistent_buffers_set")
    for holder, skipped in (
        ("_parameters", ()),
        ("_buffers", passing if isinstance(passing, (set, frozenset)) else ()),
    ):
        for key, value in state[holder].items():
            if value is not None and type(key) is str and key not in skipped:
                yield holder, key, value


def _state_dict(opaque: Opaque) -> OrderedDict[str, MetaNode]:
    """What a module's ``state_dict()`` would be, from what its objects hold; empty for an object that is none."""
    found: OrderedDict[str, MetaNode] = OrderedDict()
    waiting = [(opaque, "")]
    while waiting:
        module, prefix = waiting.pop()
        if is_module(module.how, module.state):
            state: Any = module.state
            found |= {prefix + key: value for _, key, value in own_tensors(state)}
            inner = [
                (child, f"{prefix}{key}.") for key, child in state["_modules"].items() if isinstance(child, Opaque)
            ]
            waiting += reversed(inner)
    return found
