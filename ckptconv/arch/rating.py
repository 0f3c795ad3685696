"""Rates specs by how much of a checkpoint's names they have: by cheap bounds first, and the close ones by solving them.

The names of many specs have the same patterns (``model.0.conv.weight``); the numbers in them distinguish most.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.arch.check import BATCHES
from ckptconv.arch.load import load_spec
from ckptconv.arch.match import Pattern, compile_patterns, match_names, skeleton_of
from ckptconv.arch.solver import solve
from ckptconv.errors import StepsError

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

    from ckptconv.arch.solver import Solution
    from ckptconv.arch.spec import Spec
    from ckptconv.core.tensor import TensorInfo

ENOUGH = 0.5
"""The least share of all names, the checkpoint's and the spec's together, that both must have in common."""

CLOSE = 8
"""The most specs that are solved to compare names exactly; the others' patterns already have less in common."""


class Rated(NamedTuple):
    """A spec, the share of names in common, and the solution that gave it."""

    share: float
    spec: Spec
    solution: Solution


def rate(specs: Sequence[Spec], tensors: Mapping[str, TensorInfo]) -> list[Rated]:
    """The most fitting specs, best first."""
    kinds = Counter((skeleton_of(name), len(info.shape)) for name, info in tensors.items())
    shares = sorted(((share_of_patterns(spec, kinds), spec) for spec in specs), key=lambda entry: -entry[0])
    close = [entry for entry in shares if entry[0] >= ENOUGH] or shares[:1]
    if len(close) > 1:
        close = sorted(((share_of_numbered(spec, tensors), spec) for _, spec in close), key=_order)[:CLOSE]
    found: dict[str, Rated] = {}
    # The overlap is never larger than the share by patterns, so specs that can no longer win need not be solved.
    for share, spec in sorted(close, key=_order):
        most = max((rated.share for rated in found.values()), default=0.0)
        yields = any(other in found and found[other].share >= share for other in spec.yields_to)
        if share >= most and not yields:
            try:
                solution = solve(spec, tensors)
            except StepsError:  # far more layers than the spec can have
                continue
            found[spec.name] = Rated(overlap(solution, tensors), spec, solution)
    return sorted(found.values(), key=lambda rated: -rated.share)


def _order(entry: tuple[float, Spec]) -> tuple[float, int]:
    """The sort key: larger shares first, and of equal ones, specs that yield to fewer others."""
    return -entry[0], len(entry[1].yields_to)


@cache
def _patterns(name: str) -> list[Pattern]:
    return compile_patterns(load_spec(name))


@cache
def _skeletons(name: str) -> Mapping[int, set[re.Pattern[str]]]:
    """The skeletons of a spec's names, by the tensor's number of dimensions."""
    found: dict[int, set[re.Pattern[str]]] = {}
    for pattern in _patterns(name):
        found.setdefault(pattern.rule.rank, set()).add(pattern.skeleton)
    return found


def share_of_patterns(spec: Spec, kinds: Mapping[tuple[str, int], int]) -> float:
    """The share of the checkpoint's tensors whose name, and number of dimensions, some rule of the spec could have.

    kinds: how many tensors have each (skeleton of the name, number of dimensions).
    """
    skeletons = _skeletons(spec.name)
    fitting = sum(
        count
        for (skeleton, rank), count in kinds.items()
        if any(expression.fullmatch(skeleton) for expression in skeletons.get(rank, ()))
    )
    return fitting / max(sum(kinds.values()), 1)


def share_of_numbered(spec: Spec, tensors: Mapping[str, TensorInfo]) -> float:
    """The share of the tensors that some rule of the spec could be, with the numbers in their names."""
    matches = match_names(_patterns(spec.name), tensors)
    found = {name for match in matches for name, _, shape in match.found if len(shape) == match.pattern.rule.rank}
    return len(found) / max(len(tensors), 1)


def overlap(solution: Solution, tensors: Mapping[str, TensorInfo]) -> float:
    """The share of names in common, among all that the checkpoint or the solved spec has.

    Optional and tied tensors may be absent, and so may the counts of batches, which old files do not have. It is 0 if
    the params by which the names are read contradict each other.
    """
    table = solution.table
    if table is None or table.clashes:
        return 0.0
    common = sum(
        name in table.tensors and len(table.tensors[name].shape) == len(info.shape) for name, info in tensors.items()
    )
    missing = sum(
        name not in tensors and not entry.optional and entry.tied_to is None and not name.endswith(BATCHES)
        for name, entry in table.tensors.items()
    )
    return common / (len(tensors) + missing) if tensors else 0.0
