r"""PEFT's ``rank_pattern`` and ``alpha_pattern``: a number for each module whose name a key matches.

    {"q_proj": 4, "layers.0.q_proj": 8, "layers\\.(1|2)\\..*proj": 16}

A key is a regular expression that must match the end of a module's name, starting at a dot; the first key that matches
counts. Nearly all keys are plain words, which are looked up. Other expressions are accepted only if matching them is
bounded: alternatives, and at most two repetitions, each of a single character. A repeated group can take exponential
time, and so can alternatives one after the other. The most steps that matching a name can take are counted first.

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
"""Characters that matching all modules may look at: 30,000 modules and a pattern with ten words take some 10^8."""

_META = re.compile(r"[\\^$*+?{}\[\]|()]")
_MARKS = re.compile(r"\\\D|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?:)?|(?:[*+?]|\{[0-9,]+\})[?+]?|.", re.DOTALL)
_NAME_THEM = "rank_pattern and alpha_pattern may name each module"


@dataclass(frozen=True, slots=True)
class _Expression:
    """A key that is more than a word. order: its place among all keys; ways, repeats: what bounds its matching."""

    order: int
    key: str
    ways: int
    repeats: int

    def steps(self, module: str) -> int:
        """The most characters that matching the name may look at: from each dot, along each way."""
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
    """A number for each module, by patterns of names."""

    by_pattern: dict[str, object] = field(default_factory=dict)
    steps: int = field(default=0, init=False)

    def number(self, module: str, otherwise: float | None) -> float | None:
        """The number of the first key that matches the module; `otherwise` if none does.

        Raises CorruptFileError for what is neither a number nor an expression, UnsupportedError for expressions that
        may take too long.
        """
        found = [self._words[tail] for tail in self._tails(module) if tail in self._words]
        order = min(found, default=len(self.by_pattern))
        for expression in self._expressions:
            if expression.order < order and self._fits(expression, module):
                order = expression.order
                break
        if order == len(self.by_pattern):
            return otherwise
        value = self._values[order]
        number = finite(value)
        if number is None:
            raise CorruptFileError(f"the configuration says {value!r} where a number is due, for {module!r}")
        return number

    @cached_property
    def _values(self) -> tuple[object, ...]:
        return tuple(self.by_pattern.values())

    @cached_property
    def _words(self) -> dict[str, int]:
        """The keys that are plain words, with their places among all keys."""
        return {key: order for order, key in enumerate(self.by_pattern) if not _META.search(key)}

    @cached_property
    def _longest(self) -> int:
        longest = max(map(len, self._words), default=0)
        if longest > MAX_NAME:
            raise LimitError(f"a module's name in the configuration has {longest:,} characters")
        return longest

    def _tails(self, module: str) -> list[str]:
        """The name, and what follows each of its dots, as far as that is no longer than the longest word."""
        parts = module[-self._longest - 1 :].split(".") if self._longest else []
        tails = [".".join(parts[at:]) for at in range(len(parts))]
        return tails if len(module) <= self._longest else tails[1:]

    @cached_property
    def _expressions(self) -> tuple[_Expression, ...]:
        """The keys that are more than words. Raises UnsupportedError for one that may take too long for some name."""
        found = [(order, key) for order, key in enumerate(self.by_pattern) if key not in self._words]
        if len(found) > _MOST_PATTERNS:
            raise UnsupportedError(f"the configuration has {len(found):,} patterns", hint=_NAME_THEM)
        return tuple(_Expression(order, key, *_cost(key)) for order, key in found)

    def _fits(self, expression: _Expression, module: str) -> bool:
        self.steps += expression.steps(module)
        if self.steps > _MOST_STEPS:
            raise _refused(expression.key, "it takes too long")
        return expression.fits(module)


def finite(value: object) -> float | None:
    """The value as a finite number; None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def _cost(key: str) -> tuple[int, int]:
    """The number of ways through the alternatives, and the number of repetitions. Raises UnsupportedError."""
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
