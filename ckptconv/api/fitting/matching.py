"""Which of an architecture's names belongs to which tensor of a graph, as far as that can be known.

    scope      a tensor is used where its module is: the graph names the module (`ckptconv.formats.onnx.lost`), and with
               this shape and role as many names of that module are missing as tensors are there
    bias       it is multiplied and then gets a bias, whose module's weight it is
    shape      nothing says more than that one tensor and one missing name may belong together
    order      several tensors may be any of as many names: they are matched in the order in which the graph computes
               and the architecture lists them; that is said, since it proves nothing

A module whose parent computes for it is not named by the graph: there a name may also be of a module below the scope.
What a scope contradicts is never matched, and where the counts differ nothing is.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.names import module_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.arch.table import Shape
    from ckptconv.formats.onnx.lost import Lost

_Exact = dict[str, bool]
"""Names that a tensor may have → whether the graph names their module."""


@dataclass(slots=True)
class Matches:
    """What belongs together.

    names:  the graph's name → the model's. shaped, ordered: those of the model's that shape, or order, alone decided.
    """

    names: dict[str, str] = field(default_factory=dict)
    shaped: list[str] = field(default_factory=list)
    ordered: list[str] = field(default_factory=list)


def match(lost: Sequence[Lost], shapes: Mapping[str, tuple[int, ...]], missing: Mapping[str, Shape]) -> Matches:
    """Names for tensors.

    lost:    in the order in which the graph uses them; shapes: of the graph's tensors, by name.
    missing: names and shapes that the architecture has and the graph has not, in the architecture's order.
    """
    by_shape: dict[Shape, list[str]] = defaultdict(list)
    for name, shape in missing.items():
        by_shape[shape].append(name)
    candidates: dict[str, _Exact] = {}
    for one in lost:
        shape = shapes[one.name]
        candidates[one.name] = _candidates(one, by_shape[shape[::-1] if one.transposed else shape])
    found = Matches()
    proven = {name: [one for one, exact in names.items() if exact] for name, names in candidates.items()}
    _assign(proven, found, shaped=False)
    taken = set(found.names.values())
    possible = {
        name: [one for one in names if one not in taken]
        for name, names in candidates.items()
        if name not in found.names
    }
    _assign(possible, found, shaped=True)
    return found


def _candidates(lost: Lost, names: Sequence[str]) -> _Exact:
    found: _Exact = {}
    for name in names:
        module, _, own = name.rpartition(".")
        if not _may_be(lost.operator, own):
            continue
        if lost.bias is not None:
            if module == module_of(lost.bias):
                found[name] = True
            continue
        exact = _stands_in(lost.scope, module)
        if exact is not None:
            found[name] = exact
    return found


def _may_be(operator: str, own: str) -> bool:
    """Whether a node of this kind takes a tensor of this name: a recurrent layer's own names end alike."""
    role, _, ending = operator.partition(":")
    return own == ending if role == "recurrent" else not own.startswith(("weight_ih_l", "weight_hh_l"))


def _stands_in(scope: str | None, module: str) -> bool | None:
    """Whether the scope is the module itself (True), may be one above it (False), or is neither (None)."""
    if scope is None:
        return False
    pieces = module.split(".") if module else []
    if not scope.startswith("/"):
        return True if scope == module else False if not scope or module.startswith(f"{scope}.") else None
    steps = [step.split(".") for step in scope.split("/") if step]
    end = 0
    for step in steps:
        places = range(max(end + 1, len(step)), len(pieces) + 1)
        end = next((stop for stop in places if pieces[stop - len(step) : stop] == step), 0)
        if not end:
            return None
    return pieces[len(pieces) - len(steps[-1]) :] == steps[-1] if steps else not pieces


def _assign(candidates: Mapping[str, list[str]], found: Matches, *, shaped: bool) -> None:
    """Match within each set of tensors and names that hang together, if it has as many of the one as of the other."""
    for group in _components(candidates):
        names = {name for one in group for name in candidates[one]}
        if len(names) != len(group):
            continue
        single, several = _forced({one: candidates[one] for one in group})
        found.names |= single | several
        found.shaped += single.values() if shaped else ()
        found.ordered += several.values()


def _components(candidates: Mapping[str, list[str]]) -> list[list[str]]:
    """Tensors that may share a name, directly or through others; those with no candidate in none."""
    group_of: dict[str, list[str]] = {}
    for one, names in candidates.items():
        joined = [one] if names else []
        for group in {id(group_of[name]): group_of[name] for name in names if name in group_of}.values():
            joined += group
        reached = {name for member in joined for name in candidates[member]}
        group_of |= dict.fromkeys(reached, joined)
    order = {one: position for position, one in enumerate(candidates)}
    groups = {id(group): sorted(group, key=order.__getitem__) for group in group_of.values()}
    return list(groups.values())


def _forced(candidates: dict[str, list[str]]) -> tuple[dict[str, str], dict[str, str]]:
    """(what follows from the candidates, what only order decides); both empty where neither settles everything."""
    left = {one: list(names) for one, names in candidates.items()}
    single: dict[str, str] = {}
    while sure := next(((one, names[0]) for one, names in left.items() if len(names) == 1), None):
        single[sure[0]] = sure[1]
        left = {one: [name for name in names if name != sure[1]] for one, names in left.items() if one != sure[0]}
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for one, names in left.items():
        alike[tuple(names)].append(one)
    names_left = [name for names in alike for name in names]
    if any(len(names) != len(ones) for names, ones in alike.items()) or len(set(names_left)) != len(names_left):
        return {}, {}
    return single, {one: name for names, ones in alike.items() for one, name in zip(ones, names, strict=True)}
