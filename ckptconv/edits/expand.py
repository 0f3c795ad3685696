"""Which tensors an edit's patterns mean.

    {*}        any text, none included; the same text in sources and targets. The first takes as little as it can.
    {0-3,7}    these numbers. In the sources of concat and stack, and the targets of split and unstack: all of them, in
               this order. Elsewhere one after another, the first of the sources with the first of the targets.

A pattern is matched in time linear in the name (it is not a regular expression): rules files come from strangers too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.edits.patterns import ANY
from ckptconv.errors import LIST_NAMES, EditError, first_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_NUMBERS = 100_000
"""Numbers that one pattern may stand for."""

_NUMBERS = re.compile(r"\{([0-9]{1,9}(?:-[0-9]{1,9})?(?:,[0-9]{1,9}(?:-[0-9]{1,9})?)*)\}")
_STAR = "any text is written {*}, with the braces"


def steps_of(edit: Edit, names: Sequence[str], label: str) -> tuple[Step, ...]:
    """The edit's steps, or those that its patterns stand for among `names`; `label` is what errors call the edit.

    Raises EditError, listing names, where a pattern matches none, or finds some of the sources of a step alone.
    """
    if edit.steps or not edit.sources:
        return edit.steps
    steps: list[Step] = []
    known = dict.fromkeys(names)
    unused: list[str] = []
    for sources, targets in _alternatives(edit, label):
        found = [
            Step(tuple(_filled(s, texts) for s in sources), tuple(_filled(t, texts) for t in targets))
            for texts in _matches(sources[0], known)
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
    _check_whole(edit, steps, known, label)
    return tuple(steps)


def listed(names: Iterable[str]) -> list[str]:
    """Names as an error's details."""
    return first_of([repr(name) for name in names])


def _check_whole(edit: Edit, steps: Sequence[Step], known: dict[str, None], label: str) -> None:
    """Refuse steps of which some sources are not there."""
    if len(edit.sources) == 1 and not any(len(step.sources) > 1 for step in steps):
        return
    used = {name for step in steps for name in step.sources}
    missing = dict.fromkeys(name for step in steps for name in step.sources if name not in known)
    alone = {
        name: None for sources, _ in _alternatives(edit, label) for source in sources[1:] if ANY in source
        for name in known if name not in used and match(source, name) is not None
    }  # fmt: skip
    if missing:
        raise EditError(
            f"{label} finds a part of its sources alone: there is no {next(iter(missing))!r}",
            hint=LIST_NAMES, details=listed(missing) if len(missing) > 1 else [],
        )  # fmt: skip
    if alone:
        raise EditError(
            f"{label} leaves a part of what its sources match over",
            hint="a longer pattern matches less", details=listed(alone),
        )  # fmt: skip


def _alternatives(edit: Edit, label: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The sources and targets with every list of numbers written out."""
    sources, targets = edit.sources, edit.targets
    if edit.kind in ("concat", "stack"):
        sources = tuple(name for source in sources for name in _spread(source))
    if edit.kind in ("split", "unstack"):
        targets = tuple(name for target in targets for name in _spread(target))
    rows = [_spread(pattern) for pattern in (*sources, *targets)]
    count = max(map(len, rows), default=1)
    if any(len(row) not in (1, count) for row in rows):
        raise EditError(
            f"{label} has lists of numbers of different lengths",
            hint="{0-3} in the sources goes with {4-7} in the targets",
        )
    full = [row if len(row) == count else row * count for row in rows]
    return [(row[: len(sources)], row[len(sources) :]) for row in zip(*full, strict=True)]


def _spread(pattern: str) -> list[str]:
    """``a.{0-2}.w`` as a.0.w, a.1.w, a.2.w; the pattern itself where it has no numbers."""
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


def _matches(pattern: str, known: dict[str, None]) -> list[tuple[str, ...]]:
    if ANY not in pattern:
        return [()] if pattern in known else []
    return [texts for name in known if (texts := match(pattern, name)) is not None]


def match(pattern: str, name: str) -> tuple[str, ...] | None:
    """What the ``{*}`` of a pattern stand for in a name; None where it does not match."""
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


def _filled(pattern: str, texts: Sequence[str]) -> str:
    made, *rest = pattern.split(ANY)
    if len(rest) > len(texts):
        raise EditError(
            f"{pattern!r} has more {ANY} than the first of the sources", hint="each stands for the same text"
        )
    return made + "".join(text + part for text, part in zip(texts, rest, strict=False))
