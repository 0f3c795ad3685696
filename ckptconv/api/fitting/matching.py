"""Matches an architecture's missing names with a graph's unnamed tensors, as far as they can be known.

A tensor and a name match by one of these, strongest first:

    scope      the graph names the module that uses the tensor (`ckptconv.formats.onnx.unnamed`), and as many names of
               that module, shape and role are missing as there are tensors
    bias       the product gets a bias, so that the tensor is the weight of the bias's module
    shape      nothing is known but that this tensor and this name may belong together, and neither fits another
    order      several tensors may have any of as many names: they are matched in the order in which the graph computes
               and the architecture lists them. That proves nothing, and is reported

The graph does not name a module whose parent computes for it, so a name may also be of a module below the scope.
Nothing is matched against its scope, or where there are more tensors than names, or fewer.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.names import module_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.arch.table import Shape
    from ckptconv.formats.onnx.unnamed import UnnamedTensor

_Candidates = dict[str, bool]
"""The names that a tensor may have → whether the graph names exactly their module."""


@dataclass(slots=True)
class Matches:
    """Which tensor has which name.

    names:    the graph's name → the model's.
    by_shape: the names in the model that shape alone decided.
    by_order: those that order alone decided.
    """

    names: dict[str, str] = field(default_factory=dict)
    by_shape: list[str] = field(default_factory=list)
    by_order: list[str] = field(default_factory=list)


def match(
    lost: Sequence[UnnamedTensor], shapes: Mapping[str, tuple[int, ...]], missing: Mapping[str, Shape]
) -> Matches:
    """Find names for a graph's unnamed tensors.

    lost:    the tensors, in the order in which the graph uses them.
    shapes:  the shapes of these tensors, by the graph's names.
    missing: names and shapes that the architecture has and the graph lacks, in the architecture's order.
    """
    missing_by_shape: dict[Shape, list[str]] = defaultdict(list)
    for name, shape in missing.items():
        missing_by_shape[shape].append(name)
    candidates: dict[str, _Candidates] = {}
    for tensor in lost:
        shape = shapes[tensor.name]
        candidates[tensor.name] = _candidates(tensor, missing_by_shape[shape[::-1] if tensor.transposed else shape])
    matches = Matches()
    exact = {tensor: [name for name, is_exact in names.items() if is_exact] for tensor, names in candidates.items()}
    _match_groups(exact, matches, by_shape=False)
    taken = set(matches.names.values())
    remaining = {
        tensor: [name for name in names if name not in taken]
        for tensor, names in candidates.items()
        if tensor not in matches.names
    }
    _match_groups(remaining, matches, by_shape=True)
    return matches


def _candidates(lost: UnnamedTensor, names: Sequence[str]) -> _Candidates:
    """Of the names with the tensor's shape, those that it may have."""
    candidates: _Candidates = {}
    for name in names:
        module, _, own_name = name.rpartition(".")
        if not _operator_takes(lost.operator, own_name):
            continue
        if lost.bias is not None:
            if module == module_of(lost.bias):
                candidates[name] = True
            continue
        exact = _scope_is_module(lost.scope, module)
        if exact is not None:
            candidates[name] = exact
    return candidates


def _operator_takes(operator: str, own_name: str) -> bool:
    """Whether a node with this operator takes a tensor of this name within its module.

    Recurrent layers take exactly the name in their operator; no other node takes the weights of a recurrent layer.
    """
    role, _, ending = operator.partition(":")
    if role == "recurrent":
        return own_name == ending
    return not own_name.startswith(("weight_ih_l", "weight_hh_l"))


def _scope_is_module(scope: str | None, module: str) -> bool | None:
    """Whether the scope is the module itself (True), may be one above it (False), or is neither (None)."""
    if scope is None:
        return False
    if not scope.startswith("/"):  # the newer exporter gives the module's full name
        if scope == module:
            return True
        return False if not scope or module.startswith(f"{scope}.") else None
    # the older one gives the calls that led there, each a run of the module path's pieces; some may be left out
    pieces = module.split(".") if module else []
    steps = [step.split(".") for step in scope.split("/") if step]
    if not steps:
        return not pieces
    end = 0
    for step in steps:
        ends = range(max(end + 1, len(step)), len(pieces) + 1)
        end = next((stop for stop in ends if pieces[stop - len(step) : stop] == step), 0)
        if not end:
            return None
    return pieces[len(pieces) - len(steps[-1]) :] == steps[-1]


def _match_groups(candidates: Mapping[str, list[str]], matches: Matches, *, by_shape: bool) -> None:
    """Match within each group of tensors that share candidates, if it has as many names as tensors."""
    for group in _groups(candidates):
        names = {name for tensor in group for name in candidates[tensor]}
        if len(names) != len(group):
            continue
        certain, by_order = _match_group({tensor: candidates[tensor] for tensor in group})
        matches.names |= certain | by_order
        if by_shape:
            matches.by_shape += certain.values()
        matches.by_order += by_order.values()


def _groups(candidates: Mapping[str, list[str]]) -> list[list[str]]:
    """Groups of tensors that share candidates, directly or through others; a tensor without candidates is in none."""
    group_of: dict[str, list[str]] = {}
    for tensor, names in candidates.items():
        merged = [tensor] if names else []
        for group in {id(group_of[name]): group_of[name] for name in names if name in group_of}.values():
            merged += group
        reached = {name for member in merged for name in candidates[member]}
        group_of |= dict.fromkeys(reached, merged)
    order = {tensor: position for position, tensor in enumerate(candidates)}
    groups = {id(group): sorted(group, key=order.__getitem__) for group in group_of.values()}
    return list(groups.values())


class _GroupMatch(NamedTuple):
    """Names that follow from the candidates, and names that only order decides, by tensor."""

    certain: dict[str, str]
    by_order: dict[str, str]


def _match_group(candidates: Mapping[str, list[str]]) -> _GroupMatch:
    """Match one group: first by elimination, then tensors with the same candidates in order. Empty unless all match."""
    left = {tensor: list(names) for tensor, names in candidates.items()}
    certain: dict[str, str] = {}
    while sure := next(((tensor, names[0]) for tensor, names in left.items() if len(names) == 1), None):
        sure_tensor, sure_name = sure
        certain[sure_tensor] = sure_name
        del left[sure_tensor]
        left = {tensor: [name for name in names if name != sure_name] for tensor, names in left.items()}
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for tensor, names in left.items():
        alike[tuple(names)].append(tensor)
    names_left = [name for names in alike for name in names]
    if any(len(names) != len(tensors) for names, tensors in alike.items()) or len(set(names_left)) != len(names_left):
        return _GroupMatch({}, {})
    by_order = {tensor: name for names, tensors in alike.items() for tensor, name in zip(tensors, names, strict=True)}
    return _GroupMatch(certain, by_order)
