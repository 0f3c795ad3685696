r"""PEFT's ``rank_pattern`` and ``alpha_pattern``: a number for each module whose name a key matches.

    {"q_proj": 4, "layers.0.q_proj": 8, "layers\\.(1|2)\\..*proj": 16}

A key is a regular expression that has to match the end of a module's name, from a dot on; the first that does counts.
Nearly all are plain words, which are looked up. Of others those are taken whose matching is bounded: alternatives, and
at most two repetitions, of a single character each. A repeated group takes exponential time, and so do alternatives
one behind the other; how long a name and a pattern may take at most is counted before they are matched.

Source: peft's utils/other.py (get_pattern_key).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite

from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.io.limits import MAX_NAME

_MOST_PATTERNS = 64
_MOST_TEXT = 256
_MOST_STEPS = 1 << 30
"""Characters that matching all modules may look at; 30,000 modules and a pattern with ten words take some 10^8."""

_META = re.compile(r"[\\^$*+?{}\[\]|()]")
_MARKS = re.compile(r"\\\D|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?:)?|(?:[*+?]|\{[0-9,]+\})[?+]?|.", re.DOTALL)
_NAME_THEM = "rank_pattern and alpha_pattern may name each module"


@dataclass(frozen=True, slots=True)
class _Expression:
    """A key that is more than a word. order: its place among all; ways, repeats: what bounds its matching."""

    order: int
    key: str
    ways: int
    repeats: int

    def steps(self, module: str) -> int:
        """Characters that matching the name may look at, at most: from each dot on, each way through."""
        starts, length = 1 + module.count("."), 1 + len(module)
        return self.ways * starts * length * int(length**self.repeats)

    def fits(self, module: str) -> bool:
        try:
            return re.match(rf"(.*\.)?({self.key})$", module) is not None
        except (re.error, OverflowError) as error:
            raise CorruptFileError(
                f"the pattern {self.key!r} of the configuration is not a regular expression: {error}"
            ) from error


@dataclass
class Patterns:
    """Numbers by what the names of modules match."""

    said: dict[str, object] = field(default_factory=dict)
    steps: int = field(default=0, init=False)

    def number(self, module: str, otherwise: float | None) -> float | None:
        """What the first key that matches the module says; `otherwise` where none does.

        Raises CorruptFileError for what is neither a number nor an expression, UnsupportedError for expressions that
        may take too long.
        """
        order = min((self._words[tail] for tail in self._tails(module) if tail in self._words), default=len(self.said))
        for one in self._expressions:
            if one.order < order and self._fits(one, module):
                order = one.order
                break
        if order == len(self.said):
            return otherwise
        found = self._values[order]
        number = finite(found)
        if number is None:
            raise CorruptFileError(f"the configuration says {found!r} where a number is due, for {module!r}")
        return number

    @cached_property
    def _values(self) -> tuple[object, ...]:
        return tuple(self.said.values())

    @cached_property
    def _words(self) -> dict[str, int]:
        """The keys that are plain words, with their places among all."""
        return {key: order for order, key in enumerate(self.said) if not _META.search(key)}

    @cached_property
    def _longest(self) -> int:
        longest = max(map(len, self._words), default=0)
        if longest > MAX_NAME:
            raise LimitError(f"a module's name in the configuration has {longest:,} characters")
        return longest

    def _tails(self, module: str) -> list[str]:
        """The name, and what is behind each of its dots, as far as it is no longer than the longest word."""
        parts = module[-self._longest - 1 :].split(".") if self._longest else []
        tails = [".".join(parts[at:]) for at in range(len(parts))]
        return tails if len(module) <= self._longest else tails[1:]

    @cached_property
    def _expressions(self) -> tuple[_Expression, ...]:
        """The keys that are more than words. Raises UnsupportedError where one may take too long, whatever the name."""
        found = [(order, key) for order, key in enumerate(self.said) if key not in self._words]
        if len(found) > _MOST_PATTERNS:
            raise UnsupportedError(f"the configuration has {len(found):,} patterns", hint=_NAME_THEM)
        return tuple(_Expression(order, key, *_cost(key)) for order, key in found)

    def _fits(self, one: _Expression, module: str) -> bool:
        self.steps += one.steps(module)
        if self.steps > _MOST_STEPS:
            raise _refused(one.key, "it takes too long")
        return one.fits(module)


def finite(value: object) -> float | None:
    """The number that a value is; None for others."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def _cost(key: str) -> tuple[int, int]:
    """In how many ways alternatives can be taken, and the number of repetitions."""
    if len(key) > _MOST_TEXT:
        raise _refused(key, "it is too long")
    ways, repeats, open_groups, before = 1, 0, [1], "("
    for mark in _MARKS.findall(key):
        if mark[0] == "(":
            open_groups.append(1)
        elif mark == ")":
            ways *= open_groups.pop()
            if not open_groups:
                raise _refused(key, "its parentheses do not match")
        elif mark == "|":
            open_groups[-1] += 1
        elif mark == "?" and before == ")":
            ways *= 2
        elif mark[0] in "*+?" or (mark[0] == "{" and len(mark) > 1):
            if before in (")", "(", "(?:", "|"):
                raise _refused(key, "it repeats a group")
            repeats += 1
        elif mark == "\\":
            raise _refused(key, "it refers to a group")
        before = mark
    if repeats > 2:
        raise _refused(key, "it repeats more than twice")
    return ways * open_groups[0], repeats


def _refused(key: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"the pattern {key[:_MOST_TEXT]!r} of the configuration is not matched: {why}", hint=_NAME_THEM
    )
