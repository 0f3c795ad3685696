"""Names to and from the tree of dicts that a Flax file is: ``Dense_0.kernel`` is at ``["Dense_0"]["kernel"]``.

Not every set of names forms a tree: for ``a`` and ``a.b``, ``a`` would be both a tensor and a dict. In such a case, and
if a key would be a reserved one, names are split later: ``a.b`` stays one key. So the keys of a path, joined by dots,
are always the name, and no two names have the same path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core import record as records
from ckptconv.core.names import NameBudget, numbered
from ckptconv.core.tensor import LazyTensor
from ckptconv.formats.flax.arrays import CHUNKED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.formats.flax.msgpack import Value

RESERVED = (records.KEY, CHUNKED)
"""Keys with a meaning of their own: our record's at the root, and that of arrays in chunks anywhere."""

MAX_LEVELS = 32
"""The most nested dicts for one name; the rest of the name is one key. Readers allow twice as many."""


def tree_from_names(tensors: Mapping[str, LazyTensor]) -> dict[str, Value]:
    """The tree. Names have to be possible as keys, and not reserved."""
    root: dict[str, Any] = {}
    for name, tensor in tensors.items():
        node = root
        *way, last = _path(name, tensors)
        for key in way:
            node = node.setdefault(key, {})
        node[last] = tensor
    return root


def _path(name: str, taken: Mapping[str, LazyTensor]) -> list[str]:
    path: list[str] = []
    start = 0
    end = name.find(".")
    while end >= 0 and len(path) < MAX_LEVELS:
        key = name[start:end]
        is_free = name[:end] not in taken and name[:end] != records.KEY
        if is_free and CHUNKED not in (key, name[end + 1 :]):
            path.append(key)
            start = end + 1
        end = name.find(".", end + 1)
    return [*path, name[start:]]


def flatten(root: Mapping[str, Value]) -> tuple[dict[str, LazyTensor], dict[str, Value]]:
    """The tensors of a tree by name, and other values by name."""
    name_budget, tensors, others = NameBudget(), dict[str, LazyTensor](), dict[str, Any]()
    for path, value in _leaves(root):
        name = numbered(name_budget.counted(".".join(map(str, path))), tensors, others)
        if isinstance(value, LazyTensor):
            tensors[name] = value
        else:
            others[name] = value
    return tensors, others


def _leaves(node: Value, path: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], Value]]:
    """The leaves of a tree, with their paths. Empty dicts and lists are leaves, except an empty root."""
    if isinstance(node, (dict, list)) and (node or not path):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(child, (*path, key))
    else:
        yield path, node
