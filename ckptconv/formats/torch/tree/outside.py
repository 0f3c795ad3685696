"""Nodes for what a pickle holds outside of the tree: attributes of tensors, versions of modules, unused objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ckptconv.core.metadata import Opaque, nodes_of
from ckptconv.formats.torch.tree.build import build_tree_without_model

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.torch.pickle import Budget, UnbuiltObject, Value
    from ckptconv.formats.torch.tree.build import Tree


def attribute_nodes(attributes: dict[str, Value], budget: Budget) -> tuple[dict[str, MetaNode], list[str]]:
    """The Python attributes that were set on a tensor, and the names of those left out because they hold tensors."""
    trees = {str(key): build_tree_without_model(value, budget) for key, value in attributes.items()}
    kept = {key: tree.root for key, tree in trees.items() if not tree.extras}
    return kept, [key for key in trees if key not in kept]


def version_nodes(tree: Tree, budget: Budget) -> dict[tuple[str | int, ...], MetaNode]:
    """The module versions (``_metadata``) of state_dicts other than the model's, by their path.

    Left out are those that are not plain values, or whose path has other keys than strings and ints.
    """
    kept: dict[tuple[str | int, ...], MetaNode] = {}
    for path, value in tree.versions.items():
        keys = tuple(key for key in path if isinstance(key, str) or type(key) is int)
        if len(keys) < len(path):
            continue
        inner = build_tree_without_model(value, budget)
        if not inner.extras and not inner.objects:
            kept[keys] = inner.root
    return kept


def unseen_objects(tree: Tree, unbuilt: list[UnbuiltObject], budget: Budget) -> tuple[Opaque, ...]:
    """The unbuilt objects that are not in the tree: dropped, overwritten, or attributes of something that does not keep
    them.

    Loading the file creates them all the same. An object that is part of another is listed as that part only.
    """
    if not unbuilt:
        return ()
    shown = {id(node) for node in nodes_of(tree.root, Opaque)}
    seen = {id(obj) for obj, opaque in tree.objects if id(opaque) in shown}
    unseen: list[Opaque] = []
    for obj in reversed(unbuilt):  # wholes first: a pickle usually makes an object after its parts
        if id(obj) not in seen:
            inner = build_tree_without_model(obj, budget)
            seen.update(id(part) for part, _ in inner.objects)
            unseen.append(cast("Opaque", inner.root))
    return tuple(reversed(unseen))
