"""Solve a spec's params for one assignment of its switches.

In this order: free texts in names, strides in names, loop counts, then the dimensions, in rounds: each equation
``shape expression = size`` that has one unknown votes for it, the majority is bound, and what was bound makes further
equations solvable. When the tensors say no more, sources fill in one param at a time, and the rounds go on; defaults
come last.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.arch.indices import Located, is_conditional, locate, vote_counts, vote_strides
from ckptconv.arch.match import free_texts
from ckptconv.arch.operations import EvaluationError, UnknownList, Value, known_integer
from ckptconv.arch.polynomial import LENGTH, SCALAR, Atom, Monomial, Polynomial, UndeterminedError
from ckptconv.arch.scope import Bindings, Scope
from ckptconv.arch.table import default_value, loop_values
from ckptconv.arch.votes import Ballot, decide, divides, stated_by, vote
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.arch.bind import Source
    from ckptconv.arch.evaluate import Budget, Formula
    from ckptconv.arch.indices import LoopValues
    from ckptconv.arch.match import Match, RuleMatches
    from ckptconv.arch.spec import ParamValue, Spec, TensorRule

TENSORS = "tensors"
DEFAULT = "default"


@dataclass(slots=True)
class Equation:
    """``formula`` at these loop values is `size`, says `weight` tensors, one of them `witness`."""

    formula: Formula
    loops: tuple[tuple[str, int | str], ...]
    size: int
    weight: int
    witness: str


@dataclass(slots=True)
class Solved:
    """What came out: bindings, where each param's value is from, and the votes."""

    bindings: Bindings
    origins: dict[str, str] = field(default_factory=dict)
    ballots: dict[Monomial, Ballot] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)


class Solving:
    """One attempt; `run` it once."""

    def __init__(
        self,
        spec: Spec,
        matches: Sequence[RuleMatches],
        assignment: Mapping[str, ParamValue],
        sources: Sequence[Source],
        budget: Budget,
    ) -> None:
        self.spec, self.sources = spec, sources
        self.solved = Solved(Bindings())
        self.pending: list[Equation] = []
        self.bindings = self.solved.bindings
        self.scope = Scope(spec, self.bindings, budget)
        for source in sources:
            if source.firm:
                for name, value in source.values.items():
                    self.bind(name, value, source.name)
        for name, value in assignment.items():
            if name not in self.bindings.values:
                self.bind(name, value, TENSORS)
        self.matches = [match for match in matches if self.holds(match.pattern.rule)]

    def run(self) -> Solved:
        """Solve for everything that can be."""
        self.free_texts()
        found = [(match, self.chosen(match)) for match in self.matches]
        self.strides(found)
        located = [locate(self.spec, self.scope, match, names) for match, names in found]
        self.counts(located)
        self.pending = self.equations(located)
        self.rounds()
        if self.close_lists():
            self.rounds()
        self.fill_in()
        return self.solved

    def holds(self, rule: TensorRule) -> bool:
        """Whether a rule may be active; a condition that is not known yet may hold."""
        try:
            return self.scope.truth(rule.when) is not False
        except EvaluationError:
            return False

    def bind(self, name: str, value: ParamValue, origin: str) -> None:
        self.bindings.set(self.spec, name, value)
        self.solved.origins.setdefault(name, origin)
        self.scope.changed()

    # -- names

    def free_texts(self) -> None:
        """Texts without choices, such as a prefix: the one that most names have."""
        for name, text in free_texts(self.spec, self.matches).items():
            if name not in self.bindings.values:
                self.bind(name, text, TENSORS)

    def chosen(self, match: RuleMatches) -> list[Match]:
        """The rule's names that have the texts which are bound."""
        wanted = [(slot, self.bindings.values.get(name)) for slot, name in match.pattern.strings]
        if not wanted:
            return match.found
        return [entry for entry in match.found if all(entry[1][slot] == text for slot, text in wanted)]

    def strides(self, found: Sequence[tuple[RuleMatches, Sequence[Match]]]) -> None:
        """Strides and offsets in names; a name that two rules could have made counts only where there is no other."""
        owners = Counter(row[0] for match, rows in found for row in rows if len(row[2]) == match.pattern.rule.rank)
        clear = [(match, [row for row in rows if owners[row[0]] == 1]) for match, rows in found]
        for rows in (clear, found):
            ballots: dict[Monomial, Ballot] = {}
            for match, names in rows:
                vote_strides(self.spec, self.scope, match, names, ballots)
            self.decided(ballots)
        for name in {name for match, _ in found for _, formula in match.pattern.numbers for name in formula.names}:
            if name in self.spec.params and self.bindings.whole(self.spec, name) is None:
                self.fill(name, DEFAULT, default_value(self.spec, name, self.scope))

    def counts(self, located: Sequence[Located]) -> None:
        """Outer loops first: the bounds of inner ones depend on them.

        Tensors that are there in some turns only, as a condition on the loops says, count where no others have decided.
        """
        steady = [entry for entry in located if not is_conditional(self.spec, entry.rule)]
        counted = {name for entry in steady if entry.found for name in entry.rule.loops}
        levels: dict[str, int] = {}
        for name, loop in self.spec.loops.items():
            behind = [levels[other] + 1 for bound in loop.formulas for other in bound.names if other in levels]
            levels[name] = max(behind, default=0)
        for level in range(max(levels.values(), default=-1) + 1):
            here = [loop for name, loop in self.spec.loops.items() if levels[name] == level]
            for known, entries in ((True, steady), (False, located)):
                ballots: dict[Monomial, Ballot] = {}
                for loop in here:
                    if (loop.name in counted) is known:
                        vote_counts(self.spec, self.scope, loop, entries, ballots)
                self.decided(ballots)

    # -- dimensions

    def equations(self, located: Sequence[Located]) -> list[Equation]:
        made: list[Equation] = []
        limits = {name: known for name in self.spec.loops if (known := self.limit(name)) is not None}
        for entry in located:
            rule = entry.rule
            varying = set(rule.loops) | self.spec.varying.keys()
            asks = rule.when is not None and bool(rule.when.names & varying)
            fixed = [index for index, formula in enumerate(rule.shape) if not formula.names & varying]
            moving = [index for index, formula in enumerate(rule.shape) if formula.names & varying]
            inside = [limits.get(name) for name in rule.loops]
            fits = [
                row
                for row in entry.found
                if len(row[2]) == rule.rank
                and all(limit is None or value in limit for value, limit in zip(row[1], inside, strict=True))
                and (not asks or self.applies(rule, row[1]))
            ]
            made += self.shared(rule, fixed, fits)
            for name, values, shape in fits:
                loops = tuple(zip(rule.loops, values, strict=True))
                made += (Equation(rule.shape[index], loops, shape[index], 1, name) for index in moving)
        return made

    def limit(self, name: str) -> range | list[int | str] | None:
        """The values of a loop where they depend on no other loop and are known: stray names vote for nothing."""
        loop = self.spec.loops[name]
        varying = set(self.spec.loops) | self.spec.varying.keys()
        if any(bound.names & varying for bound in loop.formulas):
            return None
        try:
            return loop_values(self.spec, loop, self.scope)
        except (UsageError, EvaluationError):
            return None

    def close_lists(self) -> bool:
        """A list that no loop counts is as long as the tensors name items of it. Whether there was any.

        One that loops run by may have more, by which they do not run at all: a constraint on its length says so.
        """
        lengths = self.said_lengths()
        for name, position in self.bindings.elements:
            if name not in self.bindings.lengths:
                lengths[name] = max(lengths.get(name, 0), position + 1)
        for name, length in lengths.items():
            self.bindings.set_length(name, length)
            self.solved.origins.setdefault(name, TENSORS)
        self.scope.changed()
        return bool(lengths)

    def said_lengths(self) -> dict[str, int]:
        """What constraints ``len(x) == …`` say of the lists that loops run by."""
        found: dict[str, int] = {}
        running = {name for loop in self.spec.loops.values() for name in loop.stop.names}
        for entry in self.spec.constraints:
            measured = entry.formula.measured()
            if measured is None or measured[0] not in running or measured[0] in self.bindings.lengths:
                continue
            with suppress(UndeterminedError, EvaluationError):
                found[measured[0]] = known_integer(measured[1](self.scope))
        return found

    def applies(self, rule: TensorRule, values: LoopValues) -> bool:
        """Whether the rule's condition may hold at these loop values."""
        self.scope.loops.update(zip(rule.loops, values, strict=True))
        try:
            return self.holds(rule)
        finally:
            self.scope.loops.clear()

    def shared(
        self, rule: TensorRule, dimensions: Sequence[int], rows: Sequence[tuple[str, LoopValues, tuple[int, ...]]]
    ) -> list[Equation]:
        """One equation for all tensors of a rule that have the same size in a dimension no loop changes."""
        made: list[Equation] = []
        for index in dimensions:
            sizes = Counter(shape[index] for _, _, shape in rows)
            for size, weight in sizes.items():
                witness = next(name for name, _, shape in rows if shape[index] == size)
                made.append(Equation(rule.shape[index], (), size, weight, witness))
        return made

    def rounds(self) -> None:
        """Vote and bind until the tensors say no more."""
        while True:
            ballots: dict[Monomial, Ballot] = {}
            values: dict[object, Value | None] = {}
            self.pending = [equation for equation in self.pending if self.voted(equation, ballots, values)]
            if not self.decided(ballots):
                return

    def voted(self, equation: Equation, ballots: dict[Monomial, Ballot], values: dict[object, Value | None]) -> bool:
        """Let an equation vote; whether it is worth asking again. `values` keeps what the tensors of a turn share."""
        key = equation.formula.text, equation.loops
        if key not in values:
            values[key] = self.value(equation)
        value = values[key]
        if isinstance(value, Polynomial):
            return not vote(ballots, value, equation.size, equation.weight, equation.witness)
        return value is None or isinstance(value, UnknownList)

    def value(self, equation: Equation) -> Value | None:
        """An equation's left side: a number too where it has no value at all, None where that is open."""
        self.scope.loops.update(equation.loops)
        try:
            return equation.formula(self.scope)
        except UndeterminedError:
            return None
        except EvaluationError:
            return 0
        finally:
            self.scope.loops.clear()

    def decided(self, ballots: dict[Monomial, Ballot]) -> bool:
        bound = decide(ballots, self.bindings, self.sources)
        self.solved.ballots.update(ballots)
        for name, _ in bound:
            self.solved.origins.setdefault(name, TENSORS)
        self.scope.changed()
        return bool(bound)

    # -- what the tensors leave open

    def fill_in(self) -> None:
        for source in self.sources:
            for name in self.spec.params:
                if name in source.values:
                    self.fill(name, source.name, source.values[name])
        self.no_repeats()
        for name in self.spec.params:
            self.fill(name, DEFAULT, default_value(self.spec, name, self.scope))

    def fill(self, name: str, origin: str, value: ParamValue | None) -> None:
        """Bind what is still open in a param, unless it contradicts a product that the tensors say."""
        if value is None or self.bindings.whole(self.spec, name) is not None:
            return
        if self.spec.params[name].type not in ("int", "ints"):
            self.bind(name, value, origin)
            return
        for key in self.open_parts(name, value):
            item = stated_by({name: value}, key)
            if item is None:
                continue
            if not divides(self.bindings, key, item):
                self.solved.rejected.append((name, origin))
                return
            self.bindings.set_atom(key, item)
            self.solved.origins.setdefault(name, origin)
        self.scope.changed()
        if origin != DEFAULT or self.bindings.products:
            self.rounds()

    def open_parts(self, name: str, value: ParamValue) -> list[Atom]:
        if not isinstance(value, list):
            return [(name, SCALAR)]
        length = self.bindings.lengths.get(name, len(value))
        keys = [(name, LENGTH), *((name, position) for position in range(min(length, len(value))))]
        return [key for key in keys if not self.bindings.knows(key)]

    def no_repeats(self) -> None:
        """A loop of which no name was found, and nobody states a count of, runs as its default says, or not at all.

        With a list that is empty by that, shapes say more: its ends are then those of what stands before and behind it.
        """
        for loop in self.spec.loops.values():
            for name in sorted(loop.stop.names & set(self.spec.params)):
                self.fill(name, DEFAULT, default_value(self.spec, name, self.scope))
                for position in range(self.bindings.lengths.get(name, 0)):
                    self.bindings.elements.setdefault((name, position), 0)
            ballots: dict[Monomial, Ballot] = {}
            try:
                start = 0 if loop.start is None else known_integer(loop.start(self.scope))
                stop = loop.stop(self.scope)
            except (UndeterminedError, EvaluationError):
                continue
            if isinstance(stop, Polynomial) and vote(ballots, stop, start, 1, ""):
                for monomial in ballots:
                    if len(monomial) == 1 and not self.bindings.knows(monomial[0]):
                        self.bindings.set_atom(monomial[0], max(ballots[monomial].winner([]), 0))
                        self.solved.origins.setdefault(monomial[0][0], TENSORS)
                self.scope.changed()
        self.rounds()
