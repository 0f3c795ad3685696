"""Matches a checkpoint's names with a spec's name templates, before any param is known.

``model.layers.{layer}.mlp.weight`` becomes a regular expression that captures every number, to be solved for the loop
variables. A ``str`` param with choices becomes an alternation, one without choices any text. A name's *skeleton* (its
digits replaced) decides which rules can match it, so that rules are tried once for each skeleton instead of each name;
of the rules that are left, a name is tried with those that start and end like it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.arch.tree import ListDisplay, Literal, Name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.spec import Spec, TensorRule
    from ckptconv.core.tensor import TensorInfo

_DIGITS = re.compile(r"[0-9]+")

NUMBER = r"(0|[1-9][0-9]{0,8})"
"""An index as Python writes it. Bounded, so that a hostile name full of digits takes linear time."""

Match = tuple[str, tuple[str, ...], tuple[int, ...]]
"""A name, its captures, the tensor's shape."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A rule's name as a regular expression, with one capture for each placeholder, in order.

    skeleton: the same expression for names whose digits were replaced.
    ends:     the text before the first placeholder, and after the last.
    strings:  (position, param) of the captures that are ``str`` params.
    numbers:  (position, formula) of the other captures.
    listed:   of the latter, those that are loops over a literal list: position → text → value.
    """

    rule: TensorRule
    expression: re.Pattern[str]
    skeleton: re.Pattern[str]
    ends: tuple[str, str]
    strings: tuple[tuple[int, str], ...]
    numbers: tuple[tuple[int, Formula], ...]
    listed: Mapping[int, Mapping[str, int | str]]


@dataclass(slots=True)
class RuleMatches:
    """All names that one rule could stand for."""

    pattern: Pattern
    found: list[Match] = field(default_factory=list)


_ByEnds = dict[tuple[int, int], dict[tuple[str, str], list[RuleMatches]]]
"""Rules by the lengths of their ends, and by the ends themselves."""


def compile_patterns(spec: Spec) -> list[Pattern]:
    """A pattern for each rule of the spec."""
    return [_pattern(spec, rule) for rule in spec.rules]


def match_names(patterns: list[Pattern], tensors: Mapping[str, TensorInfo]) -> list[RuleMatches]:
    """For each pattern, the names that it matches, in the checkpoint's order.

    Takes O(names), with few rules per skeleton.
    """
    matches = [RuleMatches(pattern) for pattern in patterns]
    by_skeleton: dict[str, _ByEnds] = {}
    for name, info in tensors.items():
        skeleton = skeleton_of(name)
        by_ends = by_skeleton.get(skeleton)
        if by_ends is None:
            fitting = [match for match in matches if match.pattern.skeleton.fullmatch(skeleton)]
            by_ends = by_skeleton[skeleton] = _group_by_ends(fitting)
        for candidate in _with_ends_of(name, by_ends):
            found = candidate.pattern.expression.fullmatch(name)
            if found is not None:
                candidate.found.append((name, found.groups(), info.shape))
    return matches


def count_matching(patterns: Iterable[Pattern], names: Iterable[str]) -> int:
    """How many of the names some pattern matches; their skeletons match all patterns."""
    by_ends = _group_by_ends([RuleMatches(pattern) for pattern in patterns])
    return sum(
        any(candidate.pattern.expression.fullmatch(name) for candidate in _with_ends_of(name, by_ends))
        for name in names
    )


def _with_ends_of(name: str, by_ends: _ByEnds) -> Iterator[RuleMatches]:
    for (first, last), candidates in by_ends.items():
        yield from candidates.get((name[:first], name[len(name) - last :]), ())


def _group_by_ends(matches: Sequence[RuleMatches]) -> _ByEnds:
    found: _ByEnds = {}
    for match in matches:
        head, tail = match.pattern.ends
        found.setdefault((len(head), len(tail)), {}).setdefault((head, tail), []).append(match)
    return found


def skeleton_of(name: str) -> str:
    """`name` with every run of digits replaced by ``0``."""
    return _DIGITS.sub("0", name)


def _pattern(spec: Spec, rule: TensorRule) -> Pattern:
    pieces: list[str] = []
    strings: list[tuple[int, str]] = []
    numbers: list[tuple[int, Formula]] = []
    listed: dict[int, Mapping[str, int | str]] = {}
    for part in rule.name.parts:
        slot = len(strings) + len(numbers)
        if isinstance(part, str):
            pieces.append(re.escape(part))
        elif isinstance(part.node, Name) and part.node.name in spec.params and _is_text(spec, part.node.name):
            strings.append((slot, part.node.name))
            pieces.append(_text_expression(spec.params[part.node.name].choices))
        else:
            numbers.append((slot, part))
            values = _literal_values(spec, part)
            if values is not None:
                listed[slot] = {str(value): value for value in values}
            pieces.append(NUMBER if values is None else _text_expression(values))
    skeleton = _DIGITS.sub("0", "".join("0" if piece == NUMBER else piece for piece in pieces))
    expressions = (re.compile("".join(pieces), re.DOTALL), re.compile(skeleton, re.DOTALL))
    parts = rule.name.parts or ("",)
    first, last = (part if isinstance(part, str) else "" for part in (parts[0], parts[-1]))
    return Pattern(rule, *expressions, (first, last), tuple(strings), tuple(numbers), listed)


def _is_text(spec: Spec, param: str) -> bool:
    return spec.params[param].type == "str"


def _literal_values(spec: Spec, part: Formula) -> list[int | str] | None:
    """The values of a loop over a literal list; None for any other placeholder."""
    loop = spec.loops.get(part.node.name) if isinstance(part.node, Name) else None
    if loop is None or not loop.plain or not isinstance(loop.stop.node, ListDisplay):
        return None
    values = [item.value for _, item in loop.stop.node.items if isinstance(item, Literal)]
    return values if len(values) == len(loop.stop.node.items) else None


def _text_expression(choices: Sequence[int | str] | None) -> str:
    """An expression for one of some texts, the longest first, or for any text."""
    if choices is None:
        return "(.*?)"
    return f"({'|'.join(re.escape(str(choice)) for choice in sorted(choices, key=lambda choice: -len(str(choice))))})"


def free_texts(spec: Spec, matches: Sequence[RuleMatches]) -> dict[str, str]:
    """For each ``str`` param without choices, such as a prefix, the text that most names have."""
    votes: dict[str, Counter[str]] = {}
    for match in matches:
        for slot, name in match.pattern.strings:
            if spec.params[name].choices is None:
                rank = match.pattern.rule.rank
                texts = (captures[slot] for _, captures, shape in match.found if len(shape) == rank)
                votes.setdefault(name, Counter()).update(texts)
    most = {name: max(counts.values()) for name, counts in votes.items() if counts}
    return {name: min(text for text, count in votes[name].items() if count == best) for name, best in most.items()}
