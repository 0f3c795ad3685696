"""Match a checkpoint's names with a spec's name templates, before any param is known.

``model.layers.{layer}.mlp.weight`` becomes a regular expression in which every number is
a capture, to be solved for the loop variables; a ``str`` param with choices is an alternation, one without is any
text. A name's *skeleton* (digits replaced) decides which rules can match it, so that the rules are tried once for each
skeleton and not for each name; of those that are left, a name meets the ones that begin and end as it does.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.arch.tree import ListDisplay, Literal, Name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.spec import Spec, TensorRule
    from ckptconv.core.tensor import TensorInfo

_DIGITS = re.compile(r"[0-9]+")

NUMBER = r"(0|[1-9][0-9]{0,8})"
"""An index as Python writes it; bounded, so that a hostile name of digits costs linear time."""

Match = tuple[str, tuple[str, ...], tuple[int, ...]]
"""A name, its captures, the tensor's shape."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A rule's name as a regular expression; one capture for each placeholder, in order.

    skeleton: the same for names whose digits were replaced.
    ends:     what it begins with, up to the first placeholder, and what it ends with, after the last.
    strings:  positions of the captures that are ``str`` params, with the param's name.
    numbers:  positions of the others, with their formulas.
    listed:   of those, the ones that are loops over a list written out: text → value.
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
    """All names that one rule could stand for: name, captures, shape."""

    pattern: Pattern
    found: list[Match] = field(default_factory=list)


_ByEnds = dict[tuple[int, int], dict[tuple[str, str], list[RuleMatches]]]
"""Rules by the lengths of their ends, and by these themselves."""


def compile_patterns(spec: Spec) -> list[Pattern]:
    """One pattern for each rule of the spec."""
    return [_pattern(spec, rule) for rule in spec.rules]


def match_names(patterns: list[Pattern], tensors: Mapping[str, TensorInfo]) -> list[RuleMatches]:
    """For each pattern the names that it matches, in the checkpoint's order. O(names), with few rules per skeleton."""
    matches = [RuleMatches(pattern) for pattern in patterns]
    by_skeleton: dict[str, _ByEnds] = {}
    for name, info in tensors.items():
        skeleton = skeleton_of(name)
        by_ends = by_skeleton.get(skeleton)
        if by_ends is None:
            fitting = [match for match in matches if match.pattern.skeleton.fullmatch(skeleton)]
            by_ends = by_skeleton[skeleton] = _by_ends(fitting)
        for (first, last), candidates in by_ends.items():
            for candidate in candidates.get((name[:first], name[len(name) - last :]), ()):
                found = candidate.pattern.expression.fullmatch(name)
                if found is not None:
                    candidate.found.append((name, found.groups(), info.shape))
    return matches


def _by_ends(matches: Sequence[RuleMatches]) -> _ByEnds:
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
            pieces.append(_text(spec.params[part.node.name].choices))
        else:
            numbers.append((slot, part))
            values = _listed(spec, part)
            if values is not None:
                listed[slot] = {str(value): value for value in values}
            pieces.append(NUMBER if values is None else _text(values))
    skeleton = _DIGITS.sub("0", "".join("0" if piece == NUMBER else piece for piece in pieces))
    expressions = (re.compile("".join(pieces), re.DOTALL), re.compile(skeleton, re.DOTALL))
    parts = rule.name.parts or ("",)
    first, last = (part if isinstance(part, str) else "" for part in (parts[0], parts[-1]))
    return Pattern(rule, *expressions, (first, last), tuple(strings), tuple(numbers), listed)


def _is_text(spec: Spec, param: str) -> bool:
    return spec.params[param].type == "str"


def _listed(spec: Spec, part: Formula) -> list[int | str] | None:
    """The values of a loop over a list that is written out; None for any other placeholder."""
    loop = spec.loops.get(part.node.name) if isinstance(part.node, Name) else None
    if loop is None or not loop.plain or not isinstance(loop.stop.node, ListDisplay):
        return None
    values = [item.value for _, item in loop.stop.node.items if isinstance(item, Literal)]
    return values if len(values) == len(loop.stop.node.items) else None


def _text(choices: Sequence[int | str] | None) -> str:
    """One of some texts, the longest first, or any text."""
    if choices is None:
        return "(.*?)"
    return f"({'|'.join(re.escape(str(choice)) for choice in sorted(choices, key=lambda choice: -len(str(choice))))})"


def free_texts(spec: Spec, matches: Sequence[RuleMatches]) -> dict[str, str]:
    """Of each ``str`` param without choices in names, such as a prefix, the text that most names have."""
    votes: dict[str, Counter[str]] = {}
    for match in matches:
        for slot, name in match.pattern.strings:
            if spec.params[name].choices is None:
                rank = match.pattern.rule.rank
                texts = (captures[slot] for _, captures, shape in match.found if len(shape) == rank)
                votes.setdefault(name, Counter()).update(texts)
    most = {name: max(counts.values()) for name, counts in votes.items() if counts}
    return {name: min(text for text, count in votes[name].items() if count == best) for name, best in most.items()}
