"""Rates specs by how much of a checkpoint's names they have: by cheap bounds first, and the close ones by solving them.

The names of many specs have the same patterns (``model.0.conv.weight``); the numbers in them distinguish most.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.arch import shortlist
from ckptconv.arch.check import BATCHES
from ckptconv.arch.load import load_spec
from ckptconv.arch.match import Pattern, compile_patterns, count_matching, skeleton_of
from ckptconv.arch.solver import solve
from ckptconv.errors import LimitError

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

    from ckptconv.arch.evaluate import Allowance
    from ckptconv.arch.solver import Solution
    from ckptconv.arch.spec import Spec
    from ckptconv.core.tensor import TensorInfo

ENOUGH = 0.5
"""The least share of all names, the checkpoint's and the spec's together, that both must have in common."""

CLOSE = 8
"""The most specs that are solved to compare names exactly; the others' patterns already have less in common."""


Kind = tuple[str, int]
"""The skeleton of a name, and the tensor's number of dimensions."""


class Rated(NamedTuple):
    """A spec, the share of names in common, and the solution that gave it."""

    share: float
    spec: Spec
    solution: Solution


class Rater:
    """Rates specs for the same tensors. Remembers what it found, since several questions are asked of one checkpoint.

    allowance: the steps that all its solutions may take together.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo], allowance: Allowance) -> None:
        self.tensors, self._allowance = tensors, allowance
        self._names: dict[Kind, list[str]] = {}
        for name, info in tensors.items():
            self._names.setdefault((skeleton_of(name), len(info.shape)), []).append(name)
        self._shares = shortlist.shares(tensors)
        self._matching: dict[tuple[Kind, frozenset[str]], int] = {}
        self._rated: dict[str, Rated | None] = {}

    def likely(self, share: float = ENOUGH) -> list[Spec]:
        """The specs of the library that may have at least that share of the names."""
        return [load_spec(name) for name in shortlist.with_share(self._shares, share)]

    def best(self, share: float = ENOUGH) -> list[Rated]:
        """The most fitting of these specs, best first; specs that cannot be the best may be missing.

        Those whose text may have the most names are read first. If one of them has more in common than any other spec
        may have, the others need not be read, which takes longer than all else.
        """
        bounds = sorted({bound for bound in self._shares.values() if bound >= share}, reverse=True)
        if len(bounds) > 1:
            rated = self.best(bounds[0])
            if rated and rated[0].share > bounds[1]:
                return rated
        names = shortlist.with_share(self._shares, share)
        parts = {part for skeleton, _ in self._names for part in skeleton.split(".")}
        whole = [name for name in names if not shortlist.lacks(name, parts)]
        if len(whole) < len(names):  # what lacks a tensor has less than all in common
            rated = self.rate([load_spec(name) for name in whole])
            if rated and rated[0].share == 1.0:
                return rated
        return self.rate([load_spec(name) for name in names])

    def rate(self, specs: Sequence[Spec]) -> list[Rated]:
        """The most fitting of these specs, best first."""
        shares = sorted(((self.share_of_patterns(spec), spec) for spec in specs), key=lambda entry: -entry[0])
        close = [entry for entry in shares if entry[0] >= ENOUGH] or shares[:1]
        if len(close) > 1:
            close = sorted(((self.share_of_numbered(spec), spec) for _, spec in close), key=_order)[:CLOSE]
        found: dict[str, Rated] = {}
        # The overlap is never larger than the share by patterns, so specs that can no longer win need not be solved.
        for share, spec in sorted(close, key=_order):
            most = max((rated.share for rated in found.values()), default=0.0)
            yields = any(other in found and found[other].share >= share for other in spec.yields_to)
            if share >= most and not yields and (rated := self.solved(spec)) is not None:
                found[spec.name] = rated
        return sorted(found.values(), key=lambda rated: -rated.share)

    def share_of_patterns(self, spec: Spec) -> float:
        """The share of the tensors whose name, and number of dimensions, some rule of the spec could have."""
        skeletons = _skeletons(spec.name)
        fitting = sum(
            len(names)
            for (skeleton, rank), names in self._names.items()
            if any(expression.fullmatch(skeleton) for expression in skeletons.get(rank, ()))
        )
        return fitting / max(len(self.tensors), 1)

    def share_of_numbered(self, spec: Spec) -> float:
        """The share of the tensors that some rule of the spec could be, with the numbers in their names."""
        matching = 0
        for kind, names in self._names.items():
            skeleton, rank = kind
            patterns = [
                pattern
                for pattern in _patterns(spec.name)
                if pattern.rule.rank == rank and pattern.skeleton.fullmatch(skeleton)
            ]
            key = kind, frozenset(pattern.expression.pattern for pattern in patterns)  # many specs have the same names
            if key not in self._matching:
                self._matching[key] = count_matching(patterns, names)
            matching += self._matching[key]
        return matching / max(len(self.tensors), 1)

    def solved(self, spec: Spec) -> Rated | None:
        """The spec solved; None if that takes too much, as for far more layers than the spec can have."""
        if spec.name not in self._rated:
            self._rated[spec.name] = None
            if not self._allowance.left():
                return None
            with suppress(LimitError):
                solution = solve(spec, self.tensors, allowance=self._allowance)
                self._rated[spec.name] = Rated(overlap(solution, self.tensors), spec, solution)
        return self._rated[spec.name]


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
