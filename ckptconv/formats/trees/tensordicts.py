"""Plain dicts from pickled TensorDicts (of the tensordict library): dicts of tensors and TensorDicts.

    ``tensordict._reductions._make_td(class, state)``    makes an object of the class, with the state's attributes
    state          "_tensordict": the dict; "_batch_size", "_device", "_td_dim_names", "_is_locked" and others; in a
                   lazy stack "tensordicts": the list of stacked TensorDicts

Values other than tensors are objects in the dict, with a state that has them under ["non_tensordict"]["data"].
Tensorclasses and TensorDictParams are objects whose state has the TensorDict. torch.load(weights_only=True) also makes
such objects, if tensordict is imported. Consolidated TensorDicts, with all tensors in one storage, are not recognised.

Sources: tensordict/_reductions.py (`_make_td`, `add_safe_globals`), tensordict/base.py (`__setstate__`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque

if TYPE_CHECKING:
    from collections.abc import Sequence

MAKES = "tensordict._reductions._make_td"

CLASSES = frozenset(
    ["tensordict._td.TensorDict", "tensordict.tensordict.TensorDict", "tensordict._lazy.LazyStackedTensorDict"]
)
"""Classes whose attributes are set, and nothing else happens; a PersistentTensorDict would open a file."""

_KEPT = (
    "_tensordict _batch_size _device _td_dim_names _is_locked _is_shared _is_memmap _locked_schema _last_op_queue "
    "_memmap_prefix _non_blocking _empty_stack_names tensordicts stack_dim _td_dim_name _stack_dim_name stack_dim_name"
)
ATTRIBUTES = frozenset(_KEPT.split())
"""Attributes that the state may set; others might be methods, or be called by tensordict."""

HOOKS = frozenset(["_hook_in", "_hook_out", "hook_in", "hook_out"])
"""Attributes that tensordict calls; they are None in an honest file."""

_DICT, _STACK = "_tensordict", "tensordicts"
_PLACES = frozenset([("args[1]", _DICT), ("args[1]", _STACK), ("state", _DICT), ("state", _STACK)])
_HOLDERS = ("tensordict", "_param_td", "_tensordict")
_VALUE = "tensordict.tensorclass.NonTensorData"


def plumbing(names: Sequence[str]) -> set[int]:
    """The indices of the parts of a path that only lead through a TensorDict's state, and don't belong to the name."""
    found: set[int] = set()
    for i in range(len(names) - 1):
        if tuple(names[i : i + 2]) in _PLACES:
            found |= {i, i + 1}
            if i >= 2 and names[i - 2] == "state" and names[i - 1] in _HOLDERS:
                found |= {i - 2, i - 1}
    return found


def is_tensordict(node: Opaque) -> bool:
    """Whether the object is a TensorDict, pickled in either way, or has one as its state."""
    return isinstance(_content(node), (dict, list))


def plain_dict(node: Opaque) -> MetaNode:
    """The TensorDict, and those in it, as dicts and lists. Expects `is_tensordict`."""
    content = _content(node)
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    assert isinstance(content, list)
    return [_plain(value) for value in content]


def class_of(node: Opaque) -> str:
    """The name of the object's class, however it was pickled."""
    cls = node.args[0] if node.name == MAKES and node.args else None
    return cls.name if isinstance(cls, Opaque) else node.name


def _plain(node: MetaNode) -> MetaNode:
    match node:
        case Opaque(name=name, state={"non_tensordict": {"data": data}}) if name == _VALUE:
            return data
        case Opaque() if is_tensordict(node):
            return plain_dict(node)
    return node


def _content(node: Opaque) -> MetaNode:
    state: MetaNode = None
    if node.name == MAKES and node.how == "constructed" and len(node.args) == 2:
        state = node.args[1]
    elif node.name in CLASSES and node.how == "object":
        state = node.state
    elif node.how == "object" and isinstance(node.state, dict):
        inner = [node.state[key] for key in _HOLDERS if isinstance(node.state.get(key), Opaque)]
        return _content(inner[0]) if len(inner) == 1 and is_tensordict(inner[0]) else None
    if not isinstance(state, dict):
        return None
    return state.get(_DICT, state.get(_STACK))
