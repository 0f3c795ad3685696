"""Expands an edit's patterns to the tensors that they match.

    {*}        any text, even none; the same text in sources and targets. Each but the last takes as little as it can.
    {0-3,7}    these numbers. In the sources of concat and stack, and in the targets of split and unstack: all of them
               at once, in this order. Elsewhere one after another: the sources' first with the targets' first, …

Patterns are no regular expressions: matching takes time linear in the name, because rules files come from strangers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.edits.patterns import ANY
from ckptconv.errors import LIST_NAMES, EditError, first_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

MOST_NUMBERS = 100_000
"""The most numbers that one pattern may stand for."""

_NUMBERS = re.compile(r"\{([0-9]{1,9}(?:-[0-9]{1,9})?(?:,[0-9]{1,9}(?:-[0-9]{1,9})?)*)\}")
_STAR = "any text is written {*}, with the braces"


def steps_of(edit: Edit, names: Collection[str], label: str) -> tuple[Step, ...]:
    """The edit's own steps, or else those that its patterns stand for among `names`. Errors call the edit `label`.

    Raises EditError, listing names, where a pattern matches none, or finds only some of the sources of a step.
    """
    if edit.steps or not edit.sources:
        return edit.steps
    steps: list[Step] = []
    unused: list[str] = []
    for sources, targets in _alternatives(edit, label):
        found = [
            Step(tuple(_fill(source, texts) for source in sources), tuple(_fill(target, texts) for target in targets))
            for texts in _matches(sources[0], names)
        ]
        steps += found
        if not found:
            unused.append(sources[0])
    if unused:
        star = "*" in unused[0].replace("{*}", "")
        raise EditError(
            f"{label}: {unused[0]!r} matches no tensor", hint=_STAR if star else LIST_NAMES,
            details=[] if len(unused) == 1 else listed(unused),
        )  # fmt: skip
    _check_complete(edit, steps, names, label)
    return tuple(steps)


def listed(names: Iterable[str]) -> list[str]:
    """Names as an error's details."""
    return first_of([repr(name) for name in names])


def _check_complete(edit: Edit, steps: Sequence[Step], known: Collection[str], label: str) -> None:
    """Refuse steps that lack some of their sources, and names that only a later source's pattern matches."""
    if len(edit.sources) == 1 and not any(len(step.sources) > 1 for step in steps):
        return
    used = {name for step in steps for name in step.sources}
    missing = dict.fromkeys(name for step in steps for name in step.sources if name not in known)
    others = [source for sources, _ in _alternatives(edit, label) for source in sources[1:] if ANY in source]
    left_over = dict.fromkeys(
        name for source in others for name in known if name not in used and match(source, name) is not None
    )
    if missing:
        raise EditError(
            f"{label} finds a part of its sources alone: there is no {next(iter(missing))!r}",
            hint=LIST_NAMES, details=listed(missing) if len(missing) > 1 else [],
        )  # fmt: skip
    if left_over:
        raise EditError(
            f"{label} leaves a part of what its sources match over",
            hint="a longer pattern matches less", details=listed(left_over),
        )  # fmt: skip


def _alternatives(edit: Edit, label: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The (sources, targets) that the edit's lists of numbers stand for."""
    sources, targets = edit.sources, edit.targets
    if edit.kind in ("concat", "stack"):
        sources = tuple(name for source in sources for name in _expand_numbers(source))
    if edit.kind in ("split", "unstack"):
        targets = tuple(name for target in targets for name in _expand_numbers(target))
    columns = [_expand_numbers(pattern) for pattern in (*sources, *targets)]
    count = max(map(len, columns), default=1)
    if any(len(column) not in (1, count) for column in columns):
        raise EditError(
            f"{label} has lists of numbers of different lengths",
            hint="{0-3} in the sources goes with {4-7} in the targets",
        )
    full = [column if len(column) == count else column * count for column in columns]
    return [(row[: len(sources)], row[len(sources) :]) for row in zip(*full, strict=True)]


def _expand_numbers(pattern: str) -> list[str]:
    """``a.{0-2}.w`` as a.0.w, a.1.w and a.2.w; the pattern itself if it has no list of numbers."""
    found = _NUMBERS.search(pattern)
    if found is None:
        return [pattern]
    numbers: list[int] = []
    for part in found[1].split(","):
        low, _, high = part.partition("-")
        first, last = int(low), int(high or low)
        if last < first or last - first >= MOST_NUMBERS or len(numbers) >= MOST_NUMBERS:
            raise EditError(
                f"{pattern!r} stands for no numbers, or for more than {MOST_NUMBERS:,}", hint="write them as in {0-3,7}"
            )
        numbers += range(first, last + 1)
    head, tail = pattern[: found.start()], pattern[found.end() :]
    if _NUMBERS.search(tail):
        raise EditError(f"{pattern!r} has more than one list of numbers", hint="write an edit for each")
    return [f"{head}{number}{tail}" for number in numbers]


def _matches(pattern: str, known: Collection[str]) -> list[tuple[str, ...]]:
    """What the ``{*}`` of a pattern stand for, in each name that it matches."""
    if ANY not in pattern:
        return [()] if pattern in known else []
    return [texts for name in known if (texts := match(pattern, name)) is not None]


def match(pattern: str, name: str) -> tuple[str, ...] | None:
    """What the ``{*}`` of a pattern stand for in a name; None if it does not match."""
    first, *others = pattern.split(ANY)
    if not others:
        return () if name == pattern else None
    if not name.startswith(first):
        return None
    texts: list[str] = []
    at = len(first)
    for part in others[:-1]:
        found = name.find(part, at)
        if found < 0:
            return None
        texts.append(name[at:found])
        at = found + len(part)
    end = len(name) - len(others[-1])
    return (*texts, name[at:end]) if end >= at and name.endswith(others[-1]) else None


def _fill(pattern: str, texts: Sequence[str]) -> str:
    """The pattern with a text in the place of each ``{*}``."""
    made, *rest = pattern.split(ANY)
    if len(rest) > len(texts):
        raise EditError(
            f"{pattern!r} has more {ANY} than the first of the sources", hint="each stands for the same text"
        )
    return made + "".join(text + part for text, part in zip(texts, rest, strict=False))
