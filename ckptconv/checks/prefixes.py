"""Names as a spec has them: without a prefix that a wrapper left, with one that was cut off."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.arch.match import compile_patterns, match_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptconv.arch.match import Pattern
    from ckptconv.arch.spec import Spec
    from ckptconv.core.tensor import TensorInfo

DEPTH = 3
"""Components that a prefix has at most."""


def spec_names(spec: Spec, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """The names that differ from the spec's by a prefix, with those that the spec has for them.

    Empty where most names match as they are, and wherever no prefix makes more of them match. Costs one matching of
    the names for each prefix that could be, and one alone where all of them match.
    """
    patterns = compile_patterns(spec)
    fitting = _matched(patterns, tensors)
    best: dict[str, str] = {}
    most = len(fitting)
    if most == len(tensors):
        return best
    cut = ({name: name.removeprefix(start) for name in tensors} for start in _common_starts(tensors))
    for names in (*cut, *with_prefixes(spec, {name: info for name, info in tensors.items() if name not in fitting})):
        count = len(_matched(patterns, {names.get(name, name): info for name, info in tensors.items()}))
        if count > most:
            best, most = {name: new for name, new in names.items() if name != new}, count
    return best


def with_prefixes(spec: Spec, tensors: Mapping[str, TensorInfo]) -> Iterator[dict[str, str]]:
    """For each prefix that the spec's names have, the names that are the spec's once they have it too."""
    patterns = compile_patterns(spec)
    for start in _starts_of(spec):
        matched = _matched(patterns, {start + name: info for name, info in tensors.items()})
        names = {name: start + name for name in tensors if start + name in matched and start + name not in tensors}
        if names:
            yield names


def _matched(patterns: list[Pattern], tensors: Mapping[str, TensorInfo]) -> set[str]:
    return {name for rule in match_names(patterns, tensors) for name, _, _ in rule.found}


def _common_starts(names: Iterable[str]) -> list[str]:
    """Leading components that at least half of the names share."""
    counts: Counter[str] = Counter()
    total = 0
    for name in names:
        total += 1
        parts = name.split(".", DEPTH + 1)
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(DEPTH + 1, len(parts))))
    return [start for start, count in counts.items() if 2 * count >= total]


def _starts_of(spec: Spec) -> list[str]:
    """Leading components of the spec's own names, those without a placeholder, the commonest first."""
    counts: Counter[str] = Counter()
    for rule in spec.rules:
        first = rule.name.parts[0] if rule.name.parts else None
        if isinstance(first, str):
            parts = first.split(".")
            counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(DEPTH + 1, len(parts))))
    return [start for start, _ in counts.most_common(2 * DEPTH)]
