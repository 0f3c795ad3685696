"""The tree around a checkpoint's tensors, once these have other names."""

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


def rooted(
    checkpoint: Checkpoint, names: Collection[str], moved: Mapping[str, str], *, bare: bool, in_one: bool = False
) -> MetaNode:
    """The tree of `checkpoint` for tensors called `names`; `moved` says where those that stay one have gone. With
    `bare`, the metadata may be left out.

    Where each finds its place it is the same tree, with module versions under their new paths. Where one does not
    (the file had several dicts, or tensors in none), and where `in_one` asks for it, all are put into one state_dict
    beside the metadata.
    Raises EditError where a name is that of a plain value, and where metadata and tensors cannot be told apart.
    """
    holes = list(nodes_of(checkpoint.root, StateDict))
    single = {node.name for node in nodes_of(checkpoint.root, TensorRef) if node.name in checkpoint}
    plain = {hole.prefix + key for hole in holes for _, key, _ in hole.plain}
    if twice := [name for name in names if name in plain]:
        raise EditError(f"{twice[0]!r} is the name of a plain value in the state_dict", hint="choose another name")
    stay = all(moved.get(name) == name for name in single) and not (in_one and len(holes) > 1)
    if stay and all(name in single or any(name.startswith(hole.prefix) for hole in holes) for name in names):
        if len(holes) != 1:
            return checkpoint.root
        return _replaced(checkpoint.root, holes[0], replace(holes[0], versions=_versions(holes[0].versions, moved)))
    return _together(checkpoint, holes, bare=bare)


def _versions(old: MetaNode, moved: Mapping[str, str]) -> MetaNode:
    """``state_dict._metadata`` with the paths of modules that are called otherwise now."""
    if not isinstance(old, dict):
        return old
    paths: dict[str, str] = {}
    for before, now in moved.items():
        one, other = before.split("."), now.split(".")
        while len(one) > 1 and len(other) > 1 and one[-1] == other[-1]:  # also those that the module lies in
            one, other = one[:-1], other[:-1]
            paths.setdefault(".".join(one), ".".join(other))
        paths.setdefault(module_of(before), module_of(now))
    versions = old.copy()
    versions.clear()
    for path, entry in old.items():
        versions.setdefault(paths.get(path, path) if isinstance(path, str) and path else path, entry)
    return versions


def _replaced(node: MetaNode, old: StateDict, new: StateDict) -> MetaNode:
    """The tree with one hole in another's place; containers on the way are copied."""
    if node is old:
        return new
    if isinstance(node, dict):
        made = node.copy()
        made.update({key: _replaced(value, old, new) for key, value in node.items()})
        return made
    if type(node) is list or type(node) is tuple:
        return type(node)(_replaced(item, old, new) for item in node)
    return node


def _together(checkpoint: Checkpoint, holes: list[StateDict], *, bare: bool) -> MetaNode:
    """One state_dict for all tensors, and the metadata beside it."""
    hole = StateDict(container=holes[0].container if holes else "OrderedDict")
    metadata = checkpoint.metadata
    key = next((key for key in _KEYS if key not in metadata), None)
    in_lists = any(
        isinstance(node, (list, tuple)) and any(without_model(child, checkpoint.keys()) is NOTHING for child in node)
        for _, node in walk(checkpoint.root)
        if node is not checkpoint.root
    )
    if not metadata or (bare and (in_lists or key is None)):
        return hole
    if in_lists or key is None:
        raise EditError(
            "tensors of the model lie in lists, where they have places and no names, and so can be given none"
            if in_lists
            else "the metadata has all the keys already under which the renamed tensors could stand as a state_dict",
            hint="--bare takes the model's tensors alone",
        )
    return {**metadata, key: hole}
