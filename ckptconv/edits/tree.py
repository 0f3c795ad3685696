"""Rebuilds the tree around a checkpoint's tensors after these were renamed, removed or added."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import NOTHING, StateDict, TensorRef, nodes_of, walk, without_model
from ckptconv.core.names import module_of
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode

_KEYS = ("state_dict", "model_state_dict", "model")


def rebuild_tree(
    checkpoint: Checkpoint, names: Collection[str], moved: Mapping[str, str], *, bare: bool, in_one: bool = False
) -> MetaNode:
    """The tree of `checkpoint` for tensors called `names`.

    If every name has a place in the old tree, it is the old tree, with module versions under their new paths. If one
    has none (the file had several dicts, or tensors outside of them), or if `in_one`, all tensors go into one
    state_dict beside the metadata.

    moved: old name → new name, of tensors that are still one tensor.
    bare:  the metadata may be left out.

    Raises EditError where a name is taken by a plain value, and where metadata and tensors cannot be separated.
    """
    state_dicts = list(nodes_of(checkpoint.root, StateDict))
    single = {node.name for node in nodes_of(checkpoint.root, TensorRef) if node.name in checkpoint}
    plain = {node.prefix + key for node in state_dicts for _, key, _ in node.plain}
    if twice := [name for name in names if name in plain]:
        raise EditError(f"{twice[0]!r} is the name of a plain value in the state_dict", hint="choose another name")
    stay = all(moved.get(name) == name for name in single) and not (in_one and len(state_dicts) > 1)
    if stay and all(name in single or any(name.startswith(node.prefix) for node in state_dicts) for name in names):
        if len(state_dicts) != 1:
            return checkpoint.root
        old = state_dicts[0]
        return _replaced(checkpoint.root, old, replace(old, versions=_versions(old.versions, moved)))
    return _in_one_state_dict(checkpoint, state_dicts, bare=bare)


def _versions(old: MetaNode, moved: Mapping[str, str]) -> MetaNode:
    """``state_dict._metadata`` with the new paths of renamed modules."""
    if not isinstance(old, dict):
        return old
    paths: dict[str, str] = {}
    for before, after in moved.items():
        old_parts, new_parts = before.split("."), after.split(".")
        # the module, and the modules around it as long as their own names are the same
        while len(old_parts) > 1 and len(new_parts) > 1 and old_parts[-1] == new_parts[-1]:
            old_parts, new_parts = old_parts[:-1], new_parts[:-1]
            paths.setdefault(".".join(old_parts), ".".join(new_parts))
        paths.setdefault(module_of(before), module_of(after))
    versions = old.copy()
    versions.clear()
    for path, entry in old.items():
        versions.setdefault(paths.get(path, path) if isinstance(path, str) and path else path, entry)
    return versions


def _replaced(node: MetaNode, old: StateDict, new: StateDict) -> MetaNode:
    """The tree with the node `old` replaced by `new`; the containers around it are copied."""
    if node is old:
        return new
    if isinstance(node, dict):
        copied = node.copy()
        copied.update({key: _replaced(value, old, new) for key, value in node.items()})
        return copied
    if type(node) is list or type(node) is tuple:
        return type(node)(_replaced(item, old, new) for item in node)
    return node


def _in_one_state_dict(checkpoint: Checkpoint, state_dicts: list[StateDict], *, bare: bool) -> MetaNode:
    """A tree with one state_dict for all tensors, and the metadata beside it."""
    state_dict = StateDict(container=state_dicts[0].container if state_dicts else "OrderedDict")
    metadata = checkpoint.metadata
    key = next((key for key in _KEYS if key not in metadata), None)
    in_lists = any(
        isinstance(node, (list, tuple)) and any(without_model(child, checkpoint.keys()) is NOTHING for child in node)
        for _, node in walk(checkpoint.root)
        if node is not checkpoint.root
    )
    if not metadata or (bare and (in_lists or key is None)):
        return state_dict
    if in_lists or key is None:
        raise EditError(
            "tensors of the model lie in lists, where they have places and no names, and so can be given none"
            if in_lists
            else "the metadata has all the keys already under which the renamed tensors could stand as a state_dict",
            hint="--bare takes the model's tensors alone",
        )
    return {**metadata, key: state_dict}
