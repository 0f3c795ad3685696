"""Quantized and sparse tensors in the tree: each of their parts gets a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.composite import VALUES, problem
from ckptconv.core.metadata import TensorRef, rebuilt
from ckptconv.core.names import numbered
from ckptconv.core.tensor import infos_of
from ckptconv.errors import CorruptFileError
from ckptconv.formats.torch.values.composites import CompositeStub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.composite import Composite
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.tree.build import Tree
    from ckptconv.formats.torch.values.stubs import TensorStub


def unfold(tree: Tree) -> dict[str, Composite]:
    """Put the parts of quantized and sparse tensors into the tree, each under its own name. Gives the composites, by
    name.
    """
    composites: dict[str, Composite] = {}
    moved: dict[str, str] = {}
    taken = tree.model.keys() | tree.extras.keys()
    for group in (tree.model, tree.extras):
        if not any(isinstance(stub, CompositeStub) for stub in group.values()):
            continue
        before = dict(group)
        group.clear()
        for name, stub in before.items():
            if not isinstance(stub, CompositeStub):
                group[name] = stub
                continue
            stubs: dict[str, TensorStub] = {VALUES: stub} if stub.named else {**stub.others, VALUES: stub}
            stubs |= stub.others
            names = {role: _part_name(name, role, taken, stub) for role in stubs}
            group.update({names[role]: part for role, part in stubs.items()})
            assert stub.make is not None
            composites[name] = stub.make(names)
            moved[name] = names[VALUES]

    def renamed(node: MetaNode) -> MetaNode:
        return TensorRef(moved[node.name]) if isinstance(node, TensorRef) and node.name in moved else node

    if any(old != new for old, new in moved.items()):
        tree.root = rebuilt(tree.root, renamed)
    return composites


def _part_name(name: str, role: str, taken: set[str], stub: CompositeStub) -> str:
    """A free name for a part: the whole's name for quantized integers, otherwise one like ``w.scale``."""
    if stub.named and role == VALUES:
        return name
    free = numbered(f"{name}.{role}", taken)
    taken.add(free)
    return free


def check_parts(composites: Mapping[str, Composite], tensors: Mapping[str, LazyTensor]) -> None:
    """Refuse parts whose types or shapes do not fit their composite. Raises CorruptFileError with the name."""
    infos = infos_of(tensors)
    for name, composite in composites.items():
        if (wrong := problem(composite, infos)) is not None:
            raise CorruptFileError(f"tensor {name!r}: {wrong}")
