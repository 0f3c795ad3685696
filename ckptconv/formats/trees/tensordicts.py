"""Pickled TensorDicts of torch's library of that name: dicts of tensors and of TensorDicts, which keep a batch size.

    ``tensordict._reductions._make_td(class, state)``    a new object of the class, its attributes set to the state's
    state          "_tensordict": the dict; "_batch_size", "_device", "_td_dim_names", "_is_locked" and others; of a
                   lazy stack "tensordicts": a list of what is stacked

Values that are not tensors are objects in the dict whose state has them under ["non_tensordict"]["data"]. A tensorclass
and a TensorDictParams are objects whose state has the TensorDict. torch.load(weights_only=True) makes such objects too,
where tensordict is imported. What was consolidated, tensors in one storage, is not known here.

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
"""Those whose attributes are set and no more; a PersistentTensorDict opens a file."""

_KEPT = (
    "_tensordict _batch_size _device _td_dim_names _is_locked _is_shared _is_memmap _locked_schema _last_op_queue "
    "_memmap_prefix _non_blocking _empty_stack_names tensordicts stack_dim _td_dim_name _stack_dim_name stack_dim_name"
)
ATTRIBUTES = frozenset(_KEPT.split())
"""What the state may set: anything else might be a method, or what tensordict calls."""

HOOKS = frozenset(["_hook_in", "_hook_out", "hook_in", "hook_out"])
"""What tensordict calls, and an honest file has as None."""

_DICT, _STACK = "_tensordict", "tensordicts"
_PLACES = frozenset([("args[1]", _DICT), ("args[1]", _STACK), ("state", _DICT), ("state", _STACK)])
_HOLDERS = ("tensordict", "_param_td", "_tensordict")
_VALUE = "tensordict.tensorclass.NonTensorData"


def plumbing(names: Sequence[str]) -> set[int]:
    """Which parts of a path to a tensor are none of its name."""
    found: set[int] = set()
    for i in range(len(names) - 1):
        if tuple(names[i : i + 2]) in _PLACES:
            found |= {i, i + 1}
            if i >= 2 and names[i - 2] == "state" and names[i - 1] in _HOLDERS:
                found |= {i - 2, i - 1}
    return found


def is_tensordict(node: Opaque) -> bool:
    """Whether it is one, in either of the ways in which they are pickled."""
    return isinstance(_content(node), (dict, list))


def plain_dict(node: Opaque) -> MetaNode:
    """Its entries, and those of what is in it, as dicts and lists. Expects `is_tensordict`."""
    content = _content(node)
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    assert isinstance(content, list)
    return [_plain(value) for value in content]


def class_of(node: Opaque) -> str:
    """What the object is one of, however it is made."""
    made = node.args[0] if node.name == MAKES and node.args else None
    return made.name if isinstance(made, Opaque) else node.name


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
