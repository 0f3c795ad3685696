"""Splits a Flax tree into the model's tensors (`ckptconv.formats.trees.nested`), extras, and a metadata tree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, StateDict, TensorRef
from ckptconv.core.names import NameBudget, numbered
from ckptconv.core.tensor import LazyTensor
from ckptconv.formats.trees.nested import NestedModel, Path, StateMapping

if TYPE_CHECKING:
    from ckptconv.formats.flax.msgpack import Value


@dataclass(slots=True)
class Tree:
    """A metadata tree, and tensors by name."""

    root: MetaNode = None
    model: dict[str, LazyTensor] = field(default_factory=dict)
    extras: dict[str, LazyTensor] = field(default_factory=dict)


def split_tree(value: Value) -> Tree:
    """Split an unpacked tree."""
    model = NestedModel(value, lambda child: isinstance(child, LazyTensor))
    return _Splitter(model if model.is_clear() else None).split(value)


def split_extra_tree(value: Value) -> Tree:
    """Split a tree that lies beside the model's: all of its tensors are extras, named by their full paths."""
    tree = _Splitter(None).split(value)
    return Tree(tree.root, {}, tree.model)


class _Splitter:
    """Makes the metadata tree. Without a `model`, all tensors are the model's, named by their full paths."""

    def __init__(self, model: NestedModel | None) -> None:
        self._mappings = {mapping.path: mapping for mapping in model.mappings} if model else {}
        self._name_budget = NameBudget()
        self._tree = Tree(model=dict(model.tensors) if model else {})
        self._others = self._tree.extras if model else self._tree.model

    def split(self, value: Value) -> Tree:
        self._tree.root = self._node(value, ())
        return self._tree

    def _node(self, value: Value, path: Path) -> MetaNode:
        match value:
            case LazyTensor():
                return self._ref(value, path)
            case dict() if path in self._mappings:
                return self._state_dict(self._mappings[path])
            case dict():
                return {key: self._node(child, (*path, key)) for key, child in value.items()}
            case list():
                return [self._node(child, (*path, i)) for i, child in enumerate(value)]
            case tuple():
                return tuple(self._node(child, (*path, i)) for i, child in enumerate(value))
            case _:
                return value

    def _state_dict(self, mapping: StateMapping) -> StateDict:
        plain = tuple(
            (position, key, self._node(child, (*mapping.path, key)))
            for position, (key, child) in enumerate(mapping.tensors.items())
            if not isinstance(child, LazyTensor)
        )
        return StateDict(mapping.prefix, "dict", plain)

    def _ref(self, tensor: LazyTensor, path: Path) -> TensorRef:
        name = self._name_budget.counted(".".join(map(str, path)) or "tensor")
        free = numbered(name, self._tree.model, self._tree.extras)
        self._others[free] = tensor
        return TensorRef(free)
