"""From names to loop values: which layer a tensor belongs to, and how many layers there are.

A placeholder such as ``{layer}`` or ``{2*i + 1}`` is inverted exactly. If its stride or offset is itself unknown
(``{first + stride*i}``, for an ``nn.Sequential`` with layers 0, 3, 6), an arithmetic progression is fitted to the
numbers. If a placeholder depends on several loops, the rule is expanded, and names are looked up among the results.

A loop's count is the one that explains the names best, with the fewest tensors missing below it plus unexpected above
it, so that neither one lost tensor nor one stray name changes it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from ckptconv.arch.operations import EvaluationError, known_integer
from ckptconv.arch.polynomial import Monomial, Polynomial, UndeterminedError, add
from ckptconv.arch.table import walk
from ckptconv.arch.votes import Ballot, vote
from ckptconv.errors import LimitError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.match import Match, RuleMatches
    from ckptconv.arch.operations import Value
    from ckptconv.arch.scope import Scope
    from ckptconv.arch.spec import Loop, Spec, TensorRule

LoopValues = tuple[int | str, ...]

MAX_STRIDES = 16
"""The most strides that are tried for a placeholder: the most common gaps between its numbers."""


@dataclass(slots=True)
class Located:
    """A rule's tensors as (name, values of the rule's loops, shape)."""

    rule: TensorRule
    found: list[tuple[str, LoopValues, tuple[int, ...]]] = field(default_factory=list)


def locate(spec: Spec, scope: Scope, matches: RuleMatches, found: Sequence[Match]) -> Located:
    """The loop values of `found`, which are some of the rule's matches. Names that no loop values give are left out."""
    rule = matches.pattern.rule
    located = Located(rule)
    if not rule.loops:
        constant = [(slot, scope.integer(formula)) for slot, formula in matches.pattern.numbers]
        for name, captures, shape in found:
            if all(value is None or captures[slot] == str(value) for slot, value in constant):
                located.found.append((name, (), shape))
        return located
    inverses = [(slot, _inverse(spec, scope, matches, slot, formula)) for slot, formula in matches.pattern.numbers]
    if any(inverse is None for _, inverse in inverses):
        return _locate_by_expansion(spec, scope, matches, found)
    for name, captures, shape in found:
        values: dict[str, int | str] = {}
        for slot, inverse in inverses:
            assert inverse is not None
            loop, value = inverse(captures[slot])
            if value is None or values.setdefault(loop, value) != value:
                break
        else:
            if len(values) == len(rule.loops):
                located.found.append((name, tuple(values[loop] for loop in rule.loops), shape))
    return located


def _inverse(
    spec: Spec, scope: Scope, matches: RuleMatches, slot: int, formula: Formula
) -> Callable[[str], tuple[str, int | str | None]] | None:
    """What turns a text in a name into (loop, its value); that value is None if no loop value gives the text."""
    loops = [name for name in formula.names if name in spec.loops]
    if len(loops) != 1 or formula.names & spec.varying.keys():
        return None
    loop = loops[0]
    if slot in matches.pattern.listed:
        values = matches.pattern.listed[slot]
        return lambda text: (loop, values.get(text))
    line = _line(scope, formula, loop)
    if line is None:
        return None
    offset, stride = line
    if isinstance(offset, Polynomial) or isinstance(stride, Polynomial) or stride == 0:
        return None

    def inverse(text: str) -> tuple[str, int | None]:
        value, rest = divmod(int(text) - offset, stride)
        return loop, value if rest == 0 and value >= 0 else None

    return inverse


def _line(scope: Scope, formula: Formula, loop: str) -> tuple[int | Polynomial, int | Polynomial] | None:
    """(value at 0, step) of a placeholder that is linear in a loop variable; None if it is not."""
    points: list[int | Polynomial] = []
    try:
        for value in range(3):
            scope.loops[loop] = value
            points.append(_number(formula(scope)))
    except (UndeterminedError, EvaluationError):
        return None
    finally:
        scope.loops.pop(loop, None)
    step = add(points[1], points[0], -1)
    if add(points[2], points[1], -1) != step:
        return None
    return points[0], step


def _number(value: Value) -> int | Polynomial:
    return value if isinstance(value, Polynomial) else known_integer(value)


def _locate_by_expansion(spec: Spec, scope: Scope, matches: RuleMatches, found: Sequence[Match]) -> Located:
    """Locate by making all the names of the rule, for placeholders that cannot be inverted."""
    located = Located(matches.pattern.rule)
    table = made_texts(spec, scope, matches)
    for name, captures, shape in found:
        values = table.get(tuple(captures[slot] for slot, _ in matches.pattern.numbers)) if table else None
        if values is not None:
            located.found.append((name, values, shape))
    return located


def made_texts(spec: Spec, scope: Scope, matches: RuleMatches) -> dict[tuple[str, ...], LoopValues] | None:
    """All texts of a rule's placeholders, with the loop values that give them; None if its loops are unknown."""
    rule, numbers = matches.pattern.rule, matches.pattern.numbers
    table: dict[tuple[str, ...], LoopValues] = {}
    try:
        for _ in walk(spec, rule.loops, scope):
            if scope.truth(rule.when) is not False:
                key = tuple(str(formula(scope)) for _, formula in numbers)
                table[key] = tuple(scope.loops[loop] for loop in rule.loops)
    except (UndeterminedError, EvaluationError, UsageError, LimitError):
        return None
    finally:
        scope.loops.clear()
    return table


def vote_strides(
    spec: Spec, scope: Scope, matches: RuleMatches, found: Sequence[Match], ballots: dict[Monomial, Ballot]
) -> None:
    """Vote for the unknowns in a rule's placeholders, by the numbers that names have there."""
    rank = matches.pattern.rule.rank
    for slot, formula in matches.pattern.numbers:
        loops = [name for name in formula.names if name in spec.loops]
        line = _line(scope, formula, loops[0]) if len(loops) == 1 else None
        if line is None or not any(isinstance(part, Polynomial) for part in line):
            continue
        if slot in matches.pattern.listed:
            continue
        numbers = sorted({int(captures[slot]) for _, captures, shape in found if len(shape) == rank})
        if not numbers:
            continue
        witness = next(name for name, captures, shape in found if len(shape) == rank)
        offset, stride, weight = _progression(numbers)
        if weight > 0:
            vote(ballots, line[0], offset, weight, witness)
            if stride is not None:
                vote(ballots, line[1], stride, weight, witness)


def _progression(numbers: Sequence[int]) -> tuple[int, int | None, int]:
    """The arithmetic progression that fits best: (first, stride, members that fit minus those that do not)."""
    if len(numbers) == 1:
        return numbers[0], None, 1
    strides = [gap for gap, _ in Counter(b - a for a, b in pairwise(numbers)).most_common(MAX_STRIDES)]
    best = (numbers[0], strides[0], -len(numbers))
    for stride in strides:
        residue, members = Counter(number % stride for number in numbers).most_common(1)[0]
        first = next(number for number in numbers if number % stride == residue)
        last = next(number for number in reversed(numbers) if number % stride == residue)
        missing = (last - first) // stride + 1 - members
        weight = members - missing - (len(numbers) - members)
        if weight > best[2]:
            best = (first, stride, weight)
    return best


def is_conditional(spec: Spec, rule: TensorRule) -> bool:
    """Whether a rule's condition changes between turns of its loops."""
    return rule.when is not None and bool(rule.when.names & (set(rule.loops) | spec.varying.keys()))


def vote_counts(
    spec: Spec, scope: Scope, loop: Loop, located: Sequence[Located], ballots: dict[Monomial, Ballot]
) -> None:
    """Vote for how often a loop runs, for each combination of the outer loops that its bound depends on."""
    outer = sorted({name for bound in loop.formulas for name in bound.names if name in spec.loops})
    found = _tensors_by_value(loop.name, outer, _dependent_loops(spec, loop.name), located)
    for combination, (seen, witness) in found.items():
        scope.loops.update(zip(outer, combination, strict=True))
        try:
            start = 0 if loop.start is None else known_integer(loop.start(scope))
            step = 1 if loop.step is None else known_integer(loop.step(scope))
            stop = loop.stop(scope)
            if step > 0 and isinstance(stop, Polynomial):
                members = {(v - start) // step: n for v, n in seen.items() if v >= start and (v - start) % step == 0}
                count = _best_count(members)
                _vote_stop(ballots, stop, start + count * step, step, sum(seen.values()), witness)
        except (UndeterminedError, EvaluationError):
            continue
        finally:
            scope.loops.clear()


def _vote_stop(
    ballots: dict[Monomial, Ballot], stop: Polynomial, bound: int, step: int, weight: int, witness: str
) -> None:
    """Vote for the loop's end.

    Any end within the last step makes the same loop, so the first that is possible counts.
    """
    for candidate in range(bound, max(bound - min(step, 1000), -1), -1):
        trial: dict[Monomial, Ballot] = {}
        vote(trial, stop, candidate, weight, witness)
        if trial:
            _add_ballots(ballots, trial)
            return


def _add_ballots(ballots: dict[Monomial, Ballot], more: Mapping[Monomial, Ballot]) -> None:
    """Add votes to votes."""
    for monomial, ballot in more.items():
        for value, weight in ballot.weights.items():
            ballots.setdefault(monomial, Ballot()).add(value, weight, ballot.witnesses[value][0])


def _dependent_loops(spec: Spec, name: str) -> set[str]:
    """The loops whose counts depend on the turn of a loop, directly or not."""
    found = {name}
    while True:
        more = {other for other, loop in spec.loops.items() if any(bound.names & found for bound in loop.formulas)}
        if more <= found:
            return found - {name}
        found |= more


def _tensors_by_value(
    name: str, outer: Sequence[str], inside: set[str], located: Sequence[Located]
) -> dict[tuple[int | str, ...], tuple[Counter[int], str]]:
    """For each combination of outer loop values: how many tensors each value of the loop has, and one tensor's name.

    All turns of the loops in `inside` count as one: a stage with one block is no weaker evidence than one with five.
    """
    seen: dict[tuple[int | str, ...], tuple[Counter[int], str]] = {}
    for entry in located:
        loops = entry.rule.loops
        if name not in loops or any(other not in loops for other in outer):
            continue
        position, positions = loops.index(name), [loops.index(other) for other in outer]
        same = [at for at, other in enumerate(loops) if other not in inside] if inside.intersection(loops) else None
        known: set[LoopValues] = set()
        for tensor, values, _ in entry.found:
            value = values[position]
            if same is not None:
                turn = tuple([values[at] for at in same])
                if turn in known:
                    continue
                known.add(turn)
            if isinstance(value, int):
                key = tuple(values[other] for other in positions)
                seen.setdefault(key, (Counter(), tensor))[0][value] += 1
    return seen


def _best_count(seen: Mapping[int, int]) -> int:
    """The count n of a loop 0 … n-1 with the fewest tensors missing below n plus unexpected from n on.

    If several are equally good, the largest: lost tensors are more likely than stray ones.
    """
    usual = Counter(seen.values()).most_common(1)[0][0] if seen else 0
    above = sum(seen.values())
    best, best_cost, missing, previous = 0, above, 0, -1
    for value in sorted(seen):
        missing += (value - previous - 1) * usual + max(0, usual - seen[value])
        above -= seen[value]
        if missing + above <= best_cost:
            best, best_cost = value + 1, missing + above
        previous = value
    return best
