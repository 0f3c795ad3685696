"""Names as the tree of dicts that a Flax file is, and back: ``Dense_0.kernel`` stands at ``["Dense_0"]["kernel"]``.

Not every set of names is a tree: of ``a`` and ``a.b`` the one would be a tensor where the other needs a dict. There,
and where a key has a meaning of its own, the rest of the name stays one key (``a.b``). So a path joined by dots is
always the name, and no two names have one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core import record as records
from ckptconv.core.names import Names, numbered
from ckptconv.core.tensor import LazyTensor
from ckptconv.formats.flax.arrays import CHUNKED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.formats.flax.msgpack import Value

RESERVED = (records.KEY, CHUNKED)
"""Keys with a meaning: our record at the root, and an array in chunks anywhere."""

MOST_LEVELS = 32
"""Dicts in dicts that a name becomes; what is left of it is one key. Readers stop at twice as many."""


def nested(tensors: Mapping[str, LazyTensor]) -> dict[str, Value]:
    """The tree. `tensors` are by names that a key can be, none of them a reserved one."""
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
    while end >= 0 and len(path) < MOST_LEVELS:
        key = name[start:end]
        is_free = name[:end] not in taken and name[:end] != records.KEY
        if is_free and CHUNKED not in (key, name[end + 1 :]):
            path.append(key)
            start = end + 1
        end = name.find(".", end + 1)
    return [*path, name[start:]]


def flattened(root: Mapping[str, Value]) -> tuple[dict[str, LazyTensor], dict[str, Value]]:
    """The tensors of a tree by name, and by name what else others have put into it."""
    names, tensors, others = Names(), dict[str, LazyTensor](), dict[str, Any]()
    for path, value in _leaves(root):
        name = numbered(names.made(".".join(map(str, path))), tensors, others)
        if isinstance(value, LazyTensor):
            tensors[name] = value
        else:
            others[name] = value
    return tensors, others


def _leaves(node: Value, path: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], Value]]:
    """What is neither a dict nor a list with something in it, each with its path; of an empty root nothing."""
    if isinstance(node, (dict, list)) and (node or not path):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(child, (*path, key))
    else:
        yield path, node
