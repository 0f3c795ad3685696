"""Decides params with few possible values that determine which tensors there are, such as the variant.

A *switch* is a bool, or a param with choices, that a condition, name or shape depends on. Assignments of the switches
are ranked by the number of names that they explain minus those that they miss. Those that the names cannot distinguish
are all solved, and the one with the fewest errors wins. A stated value counts as half a name: it only decides draws.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from ckptconv.arch.indices import made_texts
from ckptconv.arch.match import free_texts
from ckptconv.arch.operations import EvaluationError
from ckptconv.arch.scope import Bindings, Scope
from ckptconv.arch.spec import VARIANT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptconv.arch.bind import Source
    from ckptconv.arch.evaluate import Budget
    from ckptconv.arch.match import RuleMatches
    from ckptconv.arch.spec import ParamValue, Spec, TensorRule

MAX_PRODUCT = 256
"""Up to so many assignments, all are tried; beyond that, one switch is changed at a time."""

MAX_DRAWS = 12
"""The most assignments, equal by their names, that are solved and compared."""

Assignment = dict[str, "ParamValue"]


def _switch_values(spec: Spec) -> dict[str, tuple[int | str, ...]]:
    """The switches of a spec, each with its values in order of preference."""
    names = {name for rule in spec.rules for name in _names_behind_rule(spec, rule)}
    return {name: param.choices for name, param in spec.params.items() if param.choices is not None and name in names}


def _names_behind_rule(spec: Spec, rule: TensorRule) -> set[str]:
    """Every name that a rule's names, shapes or condition depend on, also through lets and loops."""
    tie = () if rule.tie is None else rule.tie.to.formulas
    when = () if rule.when is None else (rule.when,)
    return spec.names_behind((*rule.name.formulas, *rule.shape, *when, *tie))


@dataclass(slots=True)
class _RuleNames:
    """A rule's names of the right rank, counted by their captured texts.

    asking:  the switches that its condition depends on.
    active:  whether the condition holds, by the values of those switches.
    fitting: how many names have the texts that an assignment wants.

    The last two are filled on demand, since most assignments differ only in what a given rule does not depend on.
    """

    rule: TensorRule
    strings: tuple[tuple[int, str], ...]
    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    asking: tuple[str, ...] = ()
    active: dict[tuple[ParamValue, ...], bool | None] = field(default_factory=dict)
    fitting: dict[tuple[ParamValue | None, ...], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Group:
    """`count` names that are explained together: by rules that capture no texts, and by (rule, captured texts)."""

    plain: tuple[int, ...]
    with_texts: tuple[tuple[int, tuple[str, ...]], ...]
    count: int


class Ranking:
    """Ranks assignments of the switches by a checkpoint's names."""

    def __init__(self, spec: Spec, matches: Sequence[RuleMatches], sources: Sequence[Source], budget: Budget) -> None:
        self.spec, self.matches, self.budget = spec, matches, budget
        self.domains = _switch_values(spec)
        self.stated = {
            name: [source.values[name] for source in sources if name in source.values] for name in self.domains
        }
        for source in sources:
            for name in self.domains:
                if source.firm and name in source.values:
                    self.domains[name] = (source.values[name],)  # type: ignore[assignment]
        self.texts = free_texts(spec, matches)
        self.rules = [self.rule_names(match) for match in matches]
        self.groups = self.group_names()
        self.conditions: dict[str, list[int]] = {}
        for index, entry in enumerate(self.rules):
            if entry.rule.when is not None:
                self.conditions.setdefault(entry.rule.when.text, []).append(index)
        self.with_texts = [i for i, entry in enumerate(self.rules) if entry.strings]
        self.computed = [
            (index, match)
            for index, match in enumerate(matches)
            if any(self.is_computed(formula.names) for _, formula in match.pattern.numbers)
        ]
        self.deciding = [_names_behind_rule(spec, entry.rule) & set(self.domains) for entry in self.rules]

    def rule_names(self, match: RuleMatches) -> _RuleNames:
        when = match.pattern.rule.when
        asking = () if when is None else tuple(sorted(self.spec.names_behind((when,)) & self.domains.keys()))
        entry = _RuleNames(match.pattern.rule, match.pattern.strings, asking=asking)
        entry.counts.update(texts for _, texts in self.candidates(match))
        return entry

    def candidates(self, match: RuleMatches) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(name, captured texts) of a rule's names of the right rank, without those with other free texts."""
        rank, slots = match.pattern.rule.rank, [slot for slot, _ in match.pattern.strings]
        free = [(slot, self.texts.get(name)) for slot, name in match.pattern.strings if name in self.texts]
        for name, captures, shape in match.found:
            if len(shape) == rank and all(captures[slot] == text for slot, text in free):
                yield name, tuple([captures[slot] for slot in slots])

    def group_names(self) -> list[_Group]:
        """The names, grouped by the conditions and captured texts that decide whether they are explained."""
        owners: dict[str, tuple[tuple[int, tuple[str, ...]], ...]] = {}
        for index, match in enumerate(self.matches):
            for name, texts in self.candidates(match):
                owners[name] = (*owners.get(name, ()), (index, texts))
        decisions = [
            (entry.rule.when and entry.rule.when.text, tuple([name for _, name in entry.strings]))
            for entry in self.rules
        ]
        alike: dict[object, tuple[tuple[tuple[int, tuple[str, ...]], ...], int]] = {}
        for group, count in Counter(owners.values()).items():
            decided_by = frozenset((*decisions[index], texts) for index, texts in group)
            first, before = alike.get(decided_by, (group, 0))
            alike[decided_by] = first, before + count
        return [
            _Group(tuple([index for index, texts in group if not texts]), tuple([(i, t) for i, t in group if t]), count)
            for group, count in alike.values()
        ]

    def best(self) -> list[Assignment]:
        """The assignments that explain the names best, at most `MAX_DRAWS`, in order of preference."""
        names = list(self.domains)
        if prod(map(len, self.domains.values())) <= MAX_PRODUCT:
            candidates: list[Assignment] = [
                dict(zip(names, values, strict=True)) for values in product(*self.domains.values())
            ]
        else:
            candidates = self.climb()
        scores = [self.score(candidate) for candidate in candidates]
        top = max(scores, default=0.0)
        different: dict[object, Assignment] = {}
        for candidate, score in zip(candidates, scores, strict=True):
            if score == top:
                different.setdefault(self.effect(candidate), candidate)
        return list(different.values())[:MAX_DRAWS]

    def effect(self, assignment: Assignment) -> object:
        """Equal for assignments that differ only in switches of rules that are not active."""
        scope = Scope(self.spec, Bindings.of(self.spec, assignment), self.budget)
        active = self.all_active(assignment, scope)
        deciding = {name for index, names in enumerate(self.deciding) if active[index] is not False for name in names}
        return tuple(active), tuple((name, value) for name, value in assignment.items() if name in deciding)

    def climb(self) -> list[Assignment]:
        """The best assignment that is reached by changing one switch at a time, followed by its neighbours."""
        current = max(self.starts(), key=self.score)
        best = self.score(current)
        for _ in range(4):
            before = dict(current)
            for name, values in self.domains.items():
                for value in values:
                    trial = {**current, name: value}
                    if (score := self.score(trial)) > best:
                        current, best = trial, score
            if current == before:
                break
        neighbours = [
            {**current, name: value}
            for name, values in self.domains.items()
            for value in values
            if value != current[name]
        ]
        return [current, *neighbours]

    def starts(self) -> list[Assignment]:
        """The assignments to start from: all that affect the spelling of names, everything else as preferred.

        With a wrong prefix, no other switch would make a difference.
        """
        preferred: Assignment = {name: values[0] for name, values in self.domains.items()}
        spelling = {VARIANT, *(name for entry in self.rules for _, name in entry.strings)} & self.domains.keys()
        domains = {name: self.domains[name] for name in self.domains if name in spelling}
        if prod(map(len, domains.values())) > MAX_PRODUCT:
            return [preferred]
        return [{**preferred, **dict(zip(domains, values, strict=True))} for values in product(*domains.values())]

    def score(self, assignment: Assignment) -> float:
        """The names explained, minus the names missed, plus half a point for each value that a source states."""
        scope = Scope(self.spec, Bindings.of(self.spec, assignment), self.budget)
        active = self.all_active(assignment, scope)
        wanted: list[tuple[ParamValue | None, ...]] = [()] * len(self.rules)
        for index in self.with_texts:
            wanted[index] = tuple([assignment.get(name) for _, name in self.rules[index].strings])
        explained = 0
        for group in self.groups:
            for index in group.plain:
                if active[index] is not False:
                    explained += group.count
                    break
            else:
                if any(active[index] is not False and _fits(texts, wanted[index]) for index, texts in group.with_texts):
                    explained += group.count
        exact, missed = self.exact(scope, active)
        stated = sum(values.count(assignment[name]) for name, values in self.stated.items())
        return explained - missed - self.count_absent(active, wanted) + exact + stated / 2

    def all_active(self, assignment: Assignment, scope: Scope) -> list[bool | None]:
        """For each rule, whether its condition holds, as `active` returns it."""
        found: list[bool | None] = [True] * len(self.rules)
        for same in self.conditions.values():  # rules with the same condition
            active = self.active(self.rules[same[0]], assignment, scope)
            for index in same:
                found[index] = active
        return found

    def active(self, entry: _RuleNames, assignment: Assignment, scope: Scope) -> bool | None:
        """Whether a rule's condition holds; None if the switches do not decide that."""
        key = tuple([assignment[name] for name in entry.asking])
        if key not in entry.active:
            try:
                entry.active[key] = scope.truth(entry.rule.when)
            except EvaluationError:
                entry.active[key] = False
        return entry.active[key]

    def count_absent(self, active: Sequence[bool | None], wanted: Sequence[tuple[ParamValue | None, ...]]) -> int:
        """Tensors that are missing because an active rule has none: as many as other rules with its loops have."""
        usual: dict[tuple[str, ...], int] = {}
        lacking = []
        for index, entry in enumerate(self.rules):
            if active[index]:
                rule, count = entry.rule, self.fitting(entry, wanted[index])
                usual[rule.loops] = max(usual.get(rule.loops, 1), count)
                if not count and not rule.optional and rule.tie is None:
                    lacking.append(rule.loops)
        return sum(usual[loops] for loops in lacking)

    def fitting(self, entry: _RuleNames, wanted: tuple[ParamValue | None, ...]) -> int:
        """How many of a rule's names have the texts that an assignment wants."""
        if wanted not in entry.fitting:
            entry.fitting[wanted] = sum(count for texts, count in entry.counts.items() if _fits(texts, wanted))
        return entry.fitting[wanted]

    def exact(self, scope: Scope, active: Sequence[bool | None]) -> tuple[int, int]:
        """For rules whose numbers cannot be inverted: (what their exact names change about the explained, names
        missed).
        """
        change = missed = 0
        for index, match in self.computed:
            rule, numbers = match.pattern.rule, match.pattern.numbers
            if active[index] is False:
                continue
            result = made_texts(self.spec, scope, match)
            if result is None:
                continue
            found = Counter(
                tuple(captures[slot] for slot, _ in numbers)
                for _, captures, shape in match.found
                if len(shape) == rule.rank
            )
            change -= sum(count for key, count in found.items() if key not in result)
            missed += len(set(result) - set(found))
        return change, missed

    def is_computed(self, names: frozenset[str]) -> bool:
        """Whether a placeholder depends on lets or several loops."""
        return any(name in self.spec.lets for name in names) or sum(name in self.spec.loops for name in names) > 1


def _fits(texts: Sequence[str], wanted: Sequence[ParamValue | None]) -> bool:
    return all(value is None or text == value for text, value in zip(texts, wanted, strict=True))
