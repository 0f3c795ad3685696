"""Finds prefixes that names have too many, such as a wrapper's, or too few."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.arch.match import compile_patterns, match_names
from ckptconv.core.report import Finding
from ckptconv.edits.match import find_prefix
from ckptconv.edits.python import python, renames

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from ckptconv.arch.match import Pattern
    from ckptconv.arch.spec import Spec
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.match import Prefix

MAX_DEPTH = 3
"""The most components of a prefix."""


def spec_names(spec: Spec, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """For names that differ from the spec's by a prefix, the names that the spec has for them.

    Empty if all names match as they are, or if no prefix makes more of them match. Costs one matching of the names for
    each possible prefix, until all names match.
    """
    patterns = compile_patterns(spec)
    fitting = _matching_names(patterns, tensors)
    best: dict[str, str] = {}
    most = len(fitting)
    if most == len(tensors):
        return best
    cut = ({name: name.removeprefix(start) for name in tensors} for start in _common_prefixes(tensors))
    for names in (*cut, *with_prefixes(spec, {name: info for name, info in tensors.items() if name not in fitting})):
        count = len(_matching_names(patterns, {names.get(name, name): info for name, info in tensors.items()}))
        if count > most:
            best, most = {name: new for name, new in names.items() if name != new}, count
        if most == len(tensors):
            break
    return best


def with_prefixes(spec: Spec, tensors: Mapping[str, TensorInfo]) -> Iterator[dict[str, str]]:
    """For each prefix in the spec: the names that match the spec once they have it, each with that name."""
    patterns = compile_patterns(spec)
    for start in _spec_prefixes(spec):
        matched = _matching_names(patterns, {start + name: info for name, info in tensors.items()})
        names = {name: start + name for name in tensors if start + name in matched and start + name not in tensors}
        if names:
            yield names


def prefixed(symptoms: Sequence[Finding], names: Collection[str]) -> tuple[Finding, dict[str, str]] | None:
    """Explain names such as ``module.layer.weight`` for ``layer.weight`` by a prefix.

    Returns one finding instead of two for each name, and the names without the prefix, or with it; None unless a prefix
    explains two names, and half of those without a partner.

    names: everything that the state_dict holds.
    """
    missing = [finding.where for finding in symptoms if finding.code == "missing-tensor"]
    unexpected = [finding.where for finding in symptoms if finding.code == "unexpected-tensor"]
    prefix = find_prefix(missing, unexpected)
    if prefix is None or (len(prefix.pairs) < 2 and len(missing) > 1):
        return None
    pairs = _all_pairs(prefix, unexpected, names)
    count = f"{len(pairs)} names" if len(pairs) > 1 else pairs[0][0]
    s = "" if len(pairs) > 1 else "s"
    if prefix.found:
        message = f"{count} start{s} with {prefix.found!r}, which the architecture does not have"
    else:
        message = f"{count} lack{s} the prefix {prefix.expected!r} of the architecture"
    wanted, there = prefix.expected or "no prefix", prefix.found or "no prefix"
    hint = python(renames(pairs), names)
    return Finding("prefixed", "error", pairs[0][0], message, wanted, there, hint), dict(pairs)


def _all_pairs(prefix: Prefix, unexpected: Sequence[str], names: Collection[str]) -> tuple[tuple[str, str], ...]:
    """The pairs, and all other unexpected names with the same prefix, or without it: an extra layer has it as well."""
    pairs, taken = dict(prefix.pairs), {*names, *(b for _, b in prefix.pairs)}
    starts = {a.partition(".")[0] for a in pairs}
    for name in unexpected:
        if prefix.found:
            new = name.removeprefix(prefix.found)
        else:
            new = prefix.expected + name if name.partition(".")[0] in starts else name
        if new and new not in taken:
            pairs[name] = new
            taken.add(new)
    return tuple(pairs.items())


def _matching_names(patterns: list[Pattern], tensors: Mapping[str, TensorInfo]) -> set[str]:
    return {name for rule in match_names(patterns, tensors) for name, _, _ in rule.found}


def _common_prefixes(names: Iterable[str]) -> list[str]:
    """The prefixes that at least half of the names share."""
    counts: Counter[str] = Counter()
    total = 0
    for name in names:
        total += 1
        parts = name.split(".", MAX_DEPTH + 1)
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(MAX_DEPTH + 1, len(parts))))
    return [start for start, count in counts.items() if 2 * count >= total]


def _spec_prefixes(spec: Spec) -> list[str]:
    """The prefixes of the spec's own names that contain no placeholder; the most common first."""
    counts: Counter[str] = Counter()
    for rule in spec.rules:
        first = rule.name.parts[0] if rule.name.parts else None
        if isinstance(first, str):
            parts = first.split(".")
            counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(MAX_DEPTH + 1, len(parts))))
    return [start for start, _ in counts.most_common(2 * MAX_DEPTH)]
