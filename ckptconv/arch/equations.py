"""Solves for a spec's params, given one assignment of its switches.

The order is: free texts in names, strides in names, loop counts, then dimensions. Dimensions are solved in rounds: each
equation ``shape expression = size`` with one unknown votes for its value, the majority is bound, and that makes further
equations solvable. When the tensors say no more, the sources fill in one param at a time, followed by more rounds;
defaults come last.
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
from ckptconv.arch.votes import Ballot, decide, divides, stated_value, vote
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
    """``formula`` at these loop values equals `size`, say `weight` tensors; `witness` is one of them."""

    formula: Formula
    loops: tuple[tuple[str, int | str], ...]
    size: int
    weight: int
    witness: str


@dataclass(slots=True)
class Solved:
    """The result.

    origins:  param → where its value is from.
    ballots:  the votes.
    rejected: (param, origin) of stated values that contradict a known product.
    """

    bindings: Bindings
    origins: dict[str, str] = field(default_factory=dict)
    ballots: dict[Monomial, Ballot] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)


class Solving:
    """One attempt to solve. Call `run` once."""

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
        self.matches = [match for match in matches if self.may_hold(match.pattern.rule)]

    def run(self) -> Solved:
        """Solve for everything that can be."""
        self.bind_free_texts()
        found = [(match, self.matches_with_texts(match)) for match in self.matches]
        self.bind_strides(found)
        located = [locate(self.spec, self.scope, match, names) for match, names in found]
        self.bind_counts(located)
        self.pending = self.equations(located)
        self.vote_in_rounds()
        if self.close_lists():
            self.vote_in_rounds()
        self.fill_in()
        return self.solved

    def may_hold(self, rule: TensorRule) -> bool:
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

    def bind_free_texts(self) -> None:
        """Bind texts without choices, such as a prefix, to the one that most names have."""
        for name, text in free_texts(self.spec, self.matches).items():
            if name not in self.bindings.values:
                self.bind(name, text, TENSORS)

    def matches_with_texts(self, match: RuleMatches) -> list[Match]:
        """The rule's matches with the texts that are bound."""
        wanted = [(slot, self.bindings.values.get(name)) for slot, name in match.pattern.strings]
        if not wanted:
            return match.found
        return [entry for entry in match.found if all(entry[1][slot] == text for slot, text in wanted)]

    def bind_strides(self, found: Sequence[tuple[RuleMatches, Sequence[Match]]]) -> None:
        """Bind strides and offsets in names. A name that two rules could have made counts only if no others do."""
        owners = Counter(row[0] for match, rows in found for row in rows if len(row[2]) == match.pattern.rule.rank)
        clear = [(match, [row for row in rows if owners[row[0]] == 1]) for match, rows in found]
        for rows in (clear, found):
            ballots: dict[Monomial, Ballot] = {}
            for match, names in rows:
                vote_strides(self.spec, self.scope, match, names, ballots)
            self.bind_winners(ballots)
        for name in {name for match, _ in found for _, formula in match.pattern.numbers for name in formula.names}:
            if name in self.spec.params and self.bindings.whole(self.spec, name) is None:
                self.fill(name, DEFAULT, default_value(self.spec, name, self.scope))

    def bind_counts(self, located: Sequence[Located]) -> None:
        """Bind how often loops run, outer loops first, because the bounds of inner ones depend on them.

        Tensors that a condition on the loops allows only in some turns count where no other tensors decide.
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
                self.bind_winners(ballots)

    # -- dimensions

    def equations(self, located: Sequence[Located]) -> list[Equation]:
        """The equations of all dimensions. Stray names, with loop values that do not occur, make none."""
        result: list[Equation] = []
        known_values = {name: known for name in self.spec.loops if (known := self.known_values(name)) is not None}
        for entry in located:
            rule = entry.rule
            varying = set(rule.loops) | self.spec.varying.keys()
            when_varies = rule.when is not None and bool(rule.when.names & varying)
            same_in_all_turns = [index for index, formula in enumerate(rule.shape) if not formula.names & varying]
            different = [index for index, formula in enumerate(rule.shape) if formula.names & varying]
            allowed = [known_values.get(name) for name in rule.loops]
            fitting = [
                row
                for row in entry.found
                if len(row[2]) == rule.rank
                and all(known is None or value in known for value, known in zip(row[1], allowed, strict=True))
                and (not when_varies or self.may_apply(rule, row[1]))
            ]
            result += self.shared_equations(rule, same_in_all_turns, fitting)
            for name, values, shape in fitting:
                loops = tuple(zip(rule.loops, values, strict=True))
                result += (Equation(rule.shape[index], loops, shape[index], 1, name) for index in different)
        return result

    def known_values(self, name: str) -> range | list[int | str] | None:
        """The values of a loop; None if they are unknown or depend on another loop."""
        loop = self.spec.loops[name]
        varying = set(self.spec.loops) | self.spec.varying.keys()
        if any(bound.names & varying for bound in loop.formulas):
            return None
        try:
            return loop_values(self.spec, loop, self.scope)
        except (UsageError, EvaluationError):
            return None

    def close_lists(self) -> bool:
        """Bind the lengths of lists that no loop counts. Returns whether there were any.

        A list is as long as tensors name its items. One that loops run over may have more items, for which they do not
        run at
        all: its length comes from a constraint.
        """
        lengths = self.lengths_by_constraints()
        for name, position in self.bindings.elements:
            if name not in self.bindings.lengths:
                lengths[name] = max(lengths.get(name, 0), position + 1)
        for name, length in lengths.items():
            self.bindings.set_length(name, length)
            self.solved.origins.setdefault(name, TENSORS)
        self.scope.changed()
        return bool(lengths)

    def lengths_by_constraints(self) -> dict[str, int]:
        """The lengths that constraints ``len(x) == …`` give to lists that loops run over."""
        found: dict[str, int] = {}
        run_over = {name for loop in self.spec.loops.values() for name in loop.stop.names}
        for entry in self.spec.constraints:
            measured = entry.formula.measured()
            if measured is None or measured[0] not in run_over or measured[0] in self.bindings.lengths:
                continue
            with suppress(UndeterminedError, EvaluationError):
                found[measured[0]] = known_integer(measured[1](self.scope))
        return found

    def may_apply(self, rule: TensorRule, values: LoopValues) -> bool:
        """Whether the rule's condition may hold at these loop values."""
        self.scope.loops.update(zip(rule.loops, values, strict=True))
        try:
            return self.may_hold(rule)
        finally:
            self.scope.loops.clear()

    def shared_equations(
        self, rule: TensorRule, dimensions: Sequence[int], rows: Sequence[tuple[str, LoopValues, tuple[int, ...]]]
    ) -> list[Equation]:
        """One equation for all tensors of a rule with the same size in a dimension that no loop changes."""
        result: list[Equation] = []
        for index in dimensions:
            sizes = Counter(shape[index] for _, _, shape in rows)
            for size, weight in sizes.items():
                witness = next(name for name, _, shape in rows if shape[index] == size)
                result.append(Equation(rule.shape[index], (), size, weight, witness))
        return result

    def vote_in_rounds(self) -> None:
        """Let equations vote and bind the winners, until nothing more is bound."""
        while True:
            ballots: dict[Monomial, Ballot] = {}
            values: dict[object, Value | None] = {}
            self.pending = [equation for equation in self.pending if self.let_vote(equation, ballots, values)]
            if not self.bind_winners(ballots):
                return

    def let_vote(self, equation: Equation, ballots: dict[Monomial, Ballot], values: dict[object, Value | None]) -> bool:
        """Let an equation vote. Returns whether to ask it again. `values` keeps values that equations share."""
        key = equation.formula.text, equation.loops
        if key not in values:
            values[key] = self.value(equation)
        value = values[key]
        if isinstance(value, Polynomial):
            return not vote(ballots, value, equation.size, equation.weight, equation.witness)
        return value is None or isinstance(value, UnknownList)

    def value(self, equation: Equation) -> Value | None:
        """The value of an equation's left side; None if it is open, and some number if it has no value at all."""
        self.scope.loops.update(equation.loops)
        try:
            return equation.formula(self.scope)
        except UndeterminedError:
            return None
        except EvaluationError:
            return 0
        finally:
            self.scope.loops.clear()

    def bind_winners(self, ballots: dict[Monomial, Ballot]) -> bool:
        """Bind the winners of votes. Returns whether there were any new ones."""
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
        self.bind_unseen_loops()
        for name in self.spec.params:
            self.fill(name, DEFAULT, default_value(self.spec, name, self.scope))

    def fill(self, name: str, origin: str, value: ParamValue | None) -> None:
        """Bind what is still open in a param, unless the value contradicts a product that the tensors determine."""
        if value is None or self.bindings.whole(self.spec, name) is not None:
            return
        if self.spec.params[name].type not in ("int", "ints"):
            self.bind(name, value, origin)
            return
        for key in self.open_parts(name, value):
            item = stated_value({name: value}, key)
            if item is None:
                continue
            if not divides(self.bindings, key, item):
                self.solved.rejected.append((name, origin))
                return
            self.bindings.set_atom(key, item)
            self.solved.origins.setdefault(name, origin)
        self.scope.changed()
        if origin != DEFAULT or self.bindings.products:
            self.vote_in_rounds()

    def open_parts(self, name: str, value: ParamValue) -> list[Atom]:
        if not isinstance(value, list):
            return [(name, SCALAR)]
        length = self.bindings.lengths.get(name, len(value))
        keys = [(name, LENGTH), *((name, position) for position in range(min(length, len(value))))]
        return [key for key in keys if not self.bindings.knows(key)]

    def bind_unseen_loops(self) -> None:
        """Bind loops of which no name was found and whose count is not stated: to their default, or to no turns.

        Lists that become empty by this make more equations solvable: what stands before a list meets what follows it.
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
        self.vote_in_rounds()
