"""Matches the names of one set of tensors with those of another.

- `find_prefix`: are they the same names under another prefix?
- `pair_renames`: which tensor was probably renamed to which?
- `substitutions`: which few substitutions explain all of those renames?
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import TYPE_CHECKING

from ckptconv.core.names import shared_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

Shape = tuple[int | None, ...]
"""A dimension that is None fits any size."""

_DIGITS = re.compile(r"\d+")
_INDEX = re.compile(r"(?:(?<=\.)|^)(?:0|[1-9][0-9]{0,8})(?=\.)")

ALIKE = 0.3
"""The least `likeness` of two names that may be a rename."""

MOST_ALIKE = 1.2
"""The largest `likeness`: equal names."""

MANY = 40
"""With more candidates than this on both sides, their names are not compared."""

LONG = 300
"""Characters of a name that are compared; real names have fewer than 120."""

DEEP = 12
"""Components of a prefix, and numbers in a name, that are looked at; real names have fewer than five."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix to change: (found, expected) `pairs` of names start with `found` and `expected` and then agree."""

    found: str
    expected: str
    pairs: tuple[tuple[str, str], ...]


def find_prefix(
    expected: Collection[str], found: Collection[str], alike: Callable[[str, str], float] | None = None
) -> Prefix | None:
    """The prefix that, taken from or put before most of `found`, gives names of `expected`.

    Both are names that have no partner yet. None unless the prefix explains at least half of the smaller side. Of
    several that explain equally many (``a.weight``, ``b.weight`` and a bare ``weight``), it is the one whose
    (found, expected) pairs are most `alike`.
    """
    to_remove = _pairs_by_prefix(found, set(expected))
    explained = max(map(len, to_remove.values()), default=0)
    to_add = _pairs_by_prefix(expected, set(found)) if explained < len(found) else {}
    candidates = [Prefix(prefix, "", tuple(pairs)) for prefix, pairs in to_remove.items()]
    candidates += [Prefix("", prefix, tuple((b, a) for a, b in pairs)) for prefix, pairs in to_add.items()]
    most = max((len(prefix.pairs) for prefix in candidates), default=0)
    if not most or 2 * most < min(len(expected), len(found)):
        return None
    best = [prefix for prefix in candidates if len(prefix.pairs) == most]
    if len(best) == 1 or alike is None:
        return best[0]
    return max(best, key=lambda prefix: sum(alike(*pair) for pair in prefix.pairs))


def _pairs_by_prefix(names: Iterable[str], wanted: set[str]) -> dict[str, list[tuple[str, str]]]:
    """The (name, rest) pairs whose rest is wanted, by prefix; of each name, the shortest such prefix counts."""
    by_prefix: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in names:
        dot = name.find(".")
        for _ in range(DEEP):
            if dot < 0:
                break
            if name[dot + 1 :] in wanted:
                by_prefix[name[: dot + 1]].append((name, name[dot + 1 :]))
                break
            dot = name.find(".", dot + 1)
    return by_prefix


def pair_renames(
    expected: Mapping[str, Shape], found: Mapping[str, tuple[int, ...]],
    fits: Callable[[Shape, tuple[int, ...]], bool], kin: Callable[[str, str], bool] | None = None,
) -> list[tuple[str, str]]:  # fmt: skip
    """Pairs (found, expected) of unpaired names that are probably the same tensor, in the order of `found`.

    Only tensors whose shapes fit are paired, each once: first those with the same numbers in their names, and among
    these first those that are `kin` (asked of a found and an expected name), and the most similar names. Takes nearly
    linear time where numbers or shapes tell the tensors apart; where they do not, nothing is paired.
    """
    pairs: list[tuple[str, str]] = []
    left, right = dict(expected), dict(found)
    alike = _Likeness(kin)
    for key in (_numbers, lambda name: ()):
        for here, there in _buckets(left, right, key):
            for a, b in _best_pairs(here, there, fits, alike):
                pairs.append((a, b))
                del right[a], left[b]
    order = {name: i for i, name in enumerate(found)}
    return sorted(pairs, key=lambda pair: order[pair[0]])


def _numbers(name: str) -> tuple[str, ...]:
    return tuple(_DIGITS.findall(name))


def _buckets(
    expected: Mapping[str, Shape], found: Mapping[str, tuple[int, ...]], key: Callable[[str], tuple[str, ...]]
) -> list[tuple[dict[str, Shape], dict[str, tuple[int, ...]]]]:
    """(expected, found) names that may be partners: those of the same key and rank."""
    groups: dict[object, tuple[dict[str, Shape], dict[str, tuple[int, ...]]]] = defaultdict(lambda: ({}, {}))
    for name, shape in expected.items():
        groups[key(name), len(shape)][0][name] = shape
    for name, shape in found.items():
        groups[key(name), len(shape)][1][name] = shape
    return [(here, there) for here, there in groups.values() if here and there]


def _best_pairs(
    expected: Mapping[str, Shape],
    found: Mapping[str, tuple[int, ...]],
    fits: Callable[[Shape, tuple[int, ...]], bool],
    alike: _Likeness,
) -> list[tuple[str, str]]:
    if len(expected) * len(found) > MANY * MANY:
        return []
    scored = [
        (score, a, b)
        for a, shape in found.items()
        for b, wanted in expected.items()
        if fits(wanted, shape) and (score := alike(a, b)) >= ALIKE
    ]
    scored.sort(key=lambda item: -item[0])
    used: set[str] = set()
    pairs = []
    for _, a, b in scored:
        if a not in used and b not in used:
            used |= {a, b}
            pairs.append((a, b))
    return pairs


class _Likeness:
    """How similar two names are apart from their numbers; names that are kin come before all others.

    Kept for each pair of skeletons, of which there are few.
    """

    def __init__(self, kin: Callable[[str, str], bool] | None) -> None:
        self.kin = kin
        self.known: dict[tuple[str, str], float] = {}
        self.skeletons: dict[str, str] = {}

    def __call__(self, a: str, b: str) -> float:
        key = self.skeleton(a), self.skeleton(b)
        if key not in self.known:
            self.known[key] = likeness(*key)
        return self.known[key] + (MOST_ALIKE if self.kin is not None and self.kin(a, b) else 0.0)

    def skeleton(self, name: str) -> str:
        if name not in self.skeletons:
            self.skeletons[name] = skeleton(name)[:LONG]  # `likeness` looks no further
        return self.skeletons[name]


def likeness(a: str, b: str) -> float:
    """How similar two names are, from 0 to MOST_ALIKE: by components and by letters, equal last components most."""
    one, two = a[:LONG].split("."), b[:LONG].split(".")
    components = SequenceMatcher(None, one, two, autojunk=False).ratio()
    letters = SequenceMatcher(None, a[:LONG], b[:LONG], autojunk=False).ratio()
    return (components + letters) / 2 + (0.2 if one[-1] == two[-1] else 0.0)


@dataclass(frozen=True, slots=True)
class Substitution:
    """Renames that are the same change: `found` to be replaced by `expected`; ``{}`` stands for any number."""

    found: str
    expected: str
    pairs: tuple[tuple[str, str], ...]


def substitutions(pairs: Sequence[tuple[str, str]]) -> list[Substitution]:
    """The substitutions of components that explain all (found, expected) renames, the most common first."""
    by_change: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for found, expected in pairs:
        by_change[_difference(found, expected)].append((found, expected))
    changes = [Substitution(a, b, tuple(group)) for (a, b), group in by_change.items()]
    return sorted(changes, key=lambda change: -len(change.pairs))


def _difference(found: str, expected: str) -> tuple[str, str]:
    """The parts in which two names differ, without the components that they start and end with alike."""
    names = found.split("."), expected.split(".")
    start, end = shared_ends(*names)
    middle = [".".join(parts[start : len(parts) - end]) for parts in names]
    if _numbers(middle[0]) == _numbers(middle[1]):
        middle = [_DIGITS.sub("{}", text) for text in middle]
    return middle[0], middle[1]


def skeleton(name: str) -> str:
    """The name with every number replaced by ``{}``."""
    return _DIGITS.sub("{}", name)


def numbered_blocks(names: Iterable[str]) -> dict[str, Counter[int]]:
    """How many names each block of each numbered stack has: ``{"model.layers.": {0: 9, 1: 9, …}}``."""
    stacks: dict[str, Counter[int]] = defaultdict(Counter)
    for name in names:
        for stack, number in numbers_in(name):
            stacks[stack][number] += 1
    return stacks


def numbers_in(name: str) -> list[tuple[str, int]]:
    """The stacks that a name is in, with its number in each, the outermost first."""
    return [(name[: match.start()], int(match.group())) for match in islice(_INDEX.finditer(name), DEEP)]
