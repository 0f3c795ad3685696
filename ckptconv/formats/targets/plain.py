"""What an object of an unknown class becomes in a target that cannot hold it, once the user has agreed to that.

OmegaConf settings and a Namespace become their plain values; a path, a name and torch's version become text; a
TensorDict becomes a dict, a pickled module what its ``state_dict()`` would be, and anything else a dict that describes
it: no writer ever emits the name of a class that a file names.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ckptconv.core.metadata import Opaque
from ckptconv.formats.trees.omegaconf import is_settings, plain_settings
from ckptconv.formats.trees.tensordicts import is_tensordict, plain_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.metadata import MetaNode

_DICTS = ("_parameters", "_buffers", "_modules")

_NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace", "ultralytics.utils.IterableSimpleNamespace")
_VERSION = "torch.torch_version.TorchVersion"
_PATHS = {
    f"{module}.{name}": kind
    for module in ("pathlib", "pathlib._local")
    for kind, names in {
        PurePosixPath: ("Path", "PosixPath", "PurePath", "PurePosixPath"),
        PureWindowsPath: ("WindowsPath", "PureWindowsPath"),
    }.items()
    for name in names
}
"""Classes of paths, each with the class that joins its parts here."""


def becomes(opaque: Opaque) -> str:
    """What `as_plain` returns, in words."""
    if is_settings(opaque):
        return "its plain values"
    if is_tensordict(opaque):
        return "a dict of its tensors"
    if _text(opaque) is not None:
        return "plain text"
    return "its state_dict" if _state_dict(opaque) else "a plain dict"


def as_plain(opaque: Opaque) -> MetaNode:
    """The object as plain data, which may still contain other objects."""
    if is_settings(opaque):
        return plain_settings(opaque)
    if is_tensordict(opaque):
        return plain_dict(opaque)
    if (text := _text(opaque)) is not None:
        return text
    if opaque.name in _NAMESPACES and (values := _attributes(opaque)) is not None:
        return values
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


def _text(opaque: Opaque) -> str | None:
    """The text that a path, the name of a class or function, or torch's version (a kind of str) is; else None."""
    if opaque.how == "named":
        return opaque.name
    parts = [arg for arg in opaque.args if isinstance(arg, str)]
    if opaque.how == "called" or opaque.kwargs or opaque.items or opaque.pairs or len(parts) < len(opaque.args):
        return None
    if opaque.name == _VERSION and len(parts) == 1:
        return parts[0]
    return str(_PATHS[opaque.name](*parts)) if opaque.name in _PATHS else None


def _attributes(opaque: Opaque) -> dict[Any, MetaNode] | None:
    """The attributes of a Namespace that has nothing else."""
    if opaque.how == "called" or opaque.args or opaque.kwargs or opaque.items or opaque.pairs:
        return None
    return opaque.state if isinstance(opaque.state, dict) else None


def is_module(how: str, state: object) -> bool:
    """Whether an object is a pickled ``nn.Module``, judged by its state; its class need not be known."""
    return how == "object" and isinstance(state, dict) and all(isinstance(state.get(key), dict) for key in _DICTS)


def own_tensors(state: dict[Any, Any]) -> Iterator[tuple[str, str, Any]]:
    """A module's own parameters and persistent buffers: the dict that holds each, its key, and the tensor."""
    not_saved = state.get("_non_persistent_buffers_set")
    for holder, skipped in (
        ("_parameters", ()),
        ("_buffers", not_saved if isinstance(not_saved, (set, frozenset)) else ()),
    ):
        for key, value in state[holder].items():
            if value is not None and type(key) is str and key not in skipped:
                yield holder, key, value


def _state_dict(opaque: Opaque) -> OrderedDict[str, MetaNode]:
    """What a module's ``state_dict()`` would be, from its pickled state; empty if the object is not a module."""
    tensors: OrderedDict[str, MetaNode] = OrderedDict()
    waiting = [(opaque, "")]
    while waiting:
        module, prefix = waiting.pop()
        if is_module(module.how, module.state):
            state: Any = module.state
            tensors |= {prefix + key: value for _, key, value in own_tensors(state)}
            children = [
                (child, f"{prefix}{key}.") for key, child in state["_modules"].items() if isinstance(child, Opaque)
            ]
            waiting += reversed(children)
    return tensors
