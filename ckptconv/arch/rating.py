"""How much of a checkpoint's names does a spec have? Bounds that cost little first, and what is close is solved for.

Many specs share the patterns of their names (``model.0.conv.weight``); which numbers these have tells most apart.
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
"""Share of all names, the checkpoint's and the spec's together, that both must have."""

CLOSE = 8
"""Specs that are solved to compare their names exactly; the others have fewer in common already by their patterns."""


class Rated(NamedTuple):
    """A spec, its share of names in common, and the solution that this was counted with."""

    share: float
    spec: Spec
    solution: Solution


def rate(specs: Sequence[Spec], tensors: Mapping[str, TensorInfo]) -> list[Rated]:
    """The likeliest specs, best first."""
    kinds = Counter((skeleton_of(name), len(info.shape)) for name, info in tensors.items())
    shares = sorted(((likely(spec, kinds), spec) for spec in specs), key=lambda entry: -entry[0])
    close = [entry for entry in shares if entry[0] >= ENOUGH] or shares[:1]
    if len(close) > 1:
        close = sorted(((known(spec, tensors), spec) for _, spec in close), key=_order)[:CLOSE]
    found: dict[str, Rated] = {}
    # An overlap is never larger than the share by patterns: what cannot win any more need not be solved.
    for share, spec in sorted(close, key=_order):
        most = max((rated.share for rated in found.values()), default=0.0)
        yields = any(other in found and found[other].share >= share for other in spec.yields_to)
        if share >= most and not yields:
            try:
                solution = solve(spec, tensors)
            except StepsError:  # of more layers than it can have
                continue
            found[spec.name] = Rated(overlap(solution, tensors), spec, solution)
    return sorted(found.values(), key=lambda rated: -rated.share)


def _order(entry: tuple[float, Spec]) -> tuple[float, int]:
    """Larger shares first; of equal ones those that yield to fewer others."""
    return -entry[0], len(entry[1].yields_to)


@cache
def _patterns(name: str) -> list[Pattern]:
    return compile_patterns(load_spec(name))


@cache
def _skeletons(name: str) -> Mapping[int, set[re.Pattern[str]]]:
    """What the names of a spec's tensors look like, by their number of dimensions."""
    found: dict[int, set[re.Pattern[str]]] = {}
    for pattern in _patterns(name):
        found.setdefault(pattern.rule.rank, set()).add(pattern.skeleton)
    return found


def likely(spec: Spec, kinds: Mapping[tuple[str, int], int]) -> float:
    """Share of the checkpoint's tensors whose name, and number of dimensions, some rule of the spec could have.

    kinds: how many tensors have each (skeleton of the name, number of dimensions).
    """
    skeletons = _skeletons(spec.name)
    fitting = sum(
        count
        for (skeleton, rank), count in kinds.items()
        if any(one.fullmatch(skeleton) for one in skeletons.get(rank, ()))
    )
    return fitting / max(sum(kinds.values()), 1)


def known(spec: Spec, tensors: Mapping[str, TensorInfo]) -> float:
    """Share of the tensors that some rule of the spec could be, with the numbers that it has in its names."""
    matches = match_names(_patterns(spec.name), tensors)
    found = {name for match in matches for name, _, shape in match.found if len(shape) == match.pattern.rule.rank}
    return len(found) / max(len(tensors), 1)


def overlap(solution: Solution, tensors: Mapping[str, TensorInfo]) -> float:
    """Names in common, of all that the checkpoint or the solved spec has; optional and tied ones may be absent.

    So may be the counts of batches, which old files lack. None are in common where the params that the names are read
    as contradict each other.
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
