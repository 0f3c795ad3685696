"""Summarizes names, and changes of names, as patterns: ``layers.{*}.attn.q.weight → layers.{*}.attention.q.weight``."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.core.names import shared_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from ckptconv.core.edit import Kind
    from ckptconv.core.spelling import Json

ANY = "{*}"
"""Stands for any text."""

_DIGITS = re.compile(r"\d+")


def open_numbers(name: str) -> str:
    """The name with every number replaced by ``{*}``."""
    return _DIGITS.sub(ANY, name)


def indices(name: str) -> list[str]:
    """The components that are numbers: ``["0", "3"]`` of ``layers.0.experts.3.w1``."""
    return [part for part in name.split(".") if part.isdecimal()]


def open_indices(name: str) -> str:
    """The name with every component that is a number replaced by ``{*}``."""
    return with_indices(name, [ANY] * len(indices(name)))


def with_indices(name: str, replacements: Sequence[str]) -> str:
    """The name with its numeric components replaced, in order."""
    left = iter(replacements)
    return ".".join(next(left) if part.isdecimal() else part for part in name.split("."))


_NUMBERS_AND_OPENED = ((_DIGITS.findall, open_numbers), (indices, open_indices))
"""Two ways to find a name's numbers, and to leave them open: all numbers, or only whole components (``experts.0.w1``
and ``experts.0.gate``).
"""


def edits_by_pattern(kind: Kind, steps: Iterable[Step], details: Mapping[str, Json] | None = None) -> list[Edit]:
    """The steps as edits: one for each pattern that steps share, those with the most steps first."""
    groups: dict[Hashable, list[Step]] = defaultdict(list)
    for step in steps:
        groups[_group_key(step)].append(step)
    result = [_edit(kind, group, details or {}) for group in groups.values()]
    return sorted(result, key=lambda edit: -len(edit.steps))


def _group_key(step: Step) -> Hashable:
    """Equal for steps that one pattern describes."""
    if len(step.sources) == len(step.targets) == 1:
        if step.sources == step.targets:
            return open_numbers(step.sources[0])
        return _difference(step.sources[0], step.targets[0])
    for numbers, opened in _NUMBERS_AND_OPENED:
        if len({tuple(numbers(name)) for name in (*step.sources, *step.targets)}) == 1:
            return tuple(map(opened, step.sources)), tuple(map(opened, step.targets))
    return step.sources, step.targets


def _difference(a: str, b: str) -> tuple[str, str]:
    """The parts in which two names differ; their numbers are left open if both have the same ones."""
    middle_a, middle_b = _middle(a, b)
    for numbers, opened in _NUMBERS_AND_OPENED:
        if numbers(middle_a) == numbers(middle_b):
            return opened(middle_a), opened(middle_b)
    return middle_a, middle_b


def _middle(a: str, b: str) -> tuple[str, str]:
    """The parts in which two names differ, without the components that they start and end with alike."""
    names = a.split("."), b.split(".")
    start, end = shared_ends(*names, end_first=True)
    middle_a, middle_b = (".".join(parts[start : len(parts) - end]) for parts in names)
    return middle_a, middle_b


def _edit(kind: Kind, group: Sequence[Step], details: Mapping[str, Json]) -> Edit:
    if len(group) == 1:
        return Edit(kind, group[0].sources, group[0].targets, details, tuple(group))
    first = group[0]
    if len(first.sources) == len(first.targets) == 1 and first.sources != first.targets:
        source, target = _rename_pattern([(step.sources[0], step.targets[0]) for step in group])
        return Edit(kind, (source,), (target,), details, tuple(group))
    source_columns = zip(*(step.sources for step in group), strict=True)
    target_columns = zip(*(step.targets for step in group), strict=True)
    return Edit(kind, tuple(map(_common, source_columns)), tuple(map(_common, target_columns)), details, tuple(group))


def _rename_pattern(pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """One pattern for renames that make the same change."""
    heads, tails = [], []
    for a, b in pairs:
        parts = a.split(".")
        start, end = shared_ends(parts, b.split("."), end_first=True)
        heads.append(tuple(parts[:start]))
        tails.append(tuple(parts[len(parts) - end :]))
    head, tail = _common_parts(heads), _common_parts(tails)
    if head is None and all(heads):
        head = (ANY,)
    if tail is None and all(tails):
        tail = (ANY,)
    middle = _difference(*pairs[0])
    if len({_middle(a, b) for a, b in pairs}) == 1:
        middle = _middle(*pairs[0])
    if head is None or tail is None:  # some names have nothing before the change, or behind it
        before = "" if head == () else ANY
        return f"{before}{middle[0]}{ANY}", f"{before}{middle[1]}{ANY}"
    sides = [".".join((*head, *([part] if part else []), *tail)) for part in middle]
    return sides[0], sides[1]


def _common_parts(rows: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The components that all rows have, left open where they differ.

    ``{*}`` alone if all differ, None if the rows have different lengths.
    """
    if len(set(rows)) == 1:
        return rows[0]
    if len({len(row) for row in rows}) > 1:
        return None
    columns = [set(column) for column in zip(*rows, strict=True)]
    joined = tuple(min(column) if len(column) == 1 else ANY for column in columns)
    return (ANY,) if all(part == ANY for part in joined) else joined


def _common(names: Sequence[str]) -> str:
    """One pattern for names that differ in numbers alone: those that differ are left open."""
    if len(set(names)) == 1:
        return names[0]
    texts = _DIGITS.split(names[0])
    columns = zip(*(_DIGITS.findall(name) for name in names), strict=True)
    numbers = [column[0] if len(set(column)) == 1 else ANY for column in columns]
    return texts[0] + "".join(number + text for number, text in zip(numbers, texts[1:], strict=True))


def group_names(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Names grouped by pattern: those that differ in numbers alone are one group."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[open_numbers(name)].append(name)
    return [(_common(group), group) for group in groups.values()]


def bracketed(names: Sequence[str], show: Callable[[str], str] = str) -> str:
    """Several names as one: ``layers.{*}.[q + k + v].weight``. `show` formats each component."""
    if len(names) < 2:
        return "".join(map(show, names))
    parts = [name.split(".") for name in names]
    least = min(map(len, parts)) - 1
    start = next((i for i in range(least) if len({row[i] for row in parts}) > 1), least)
    end = next((i for i in range(least - start) if len({row[-1 - i] for row in parts}) > 1), least - start)
    inner = " + ".join(".".join(row[start : len(row) - end]) for row in parts)
    return ".".join(map(show, [*parts[0][:start], f"[{inner}]", *parts[0][len(parts[0]) - end :]]))
