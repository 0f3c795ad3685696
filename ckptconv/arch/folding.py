"""Fold a checkpoint's numbered names into loops: the structure behind ``model.layers.0.mlp.weight``, ``…1…``, ``…2…``.

A *site* is a place in names where numbers stand. It becomes a loop where what follows each number is alike: then the
names that only some numbers have (a first block's extra tensor) keep a condition, or their number. Where the followers
are not alike, each follower whose numbers form an arithmetic progression in every checkpoint gets a loop of its own
(an ``nn.Sequential`` of convolutions and norms), and anything else keeps its numbers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from ckptconv.core.text import cut
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckptconv.core.tensor import TensorInfo

Tokens = tuple[str | int, ...]
"""A name cut at its numbers: text and numbers in turn, text first."""

Follower = tuple[Tokens, int]

K = TypeVar("K")

Numbers = Mapping[tuple[int, tuple[int, ...]], frozenset[int]]
"""The numbers at a site for each (file, outer loops)."""

_NUMBER = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,8})(?![0-9])")

MAX_SITE = 100_000
"""Numbers at one site."""

MAX_NUMBERS = 32
"""Numbers in a name, each of which may be a loop in the one before; models have up to six."""

HINT = "such a spec is written by hand: ckptconv/arch/README.md says how"


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor: its checkpoint, the values of the loops around it, what follows in its name, its shape."""

    file: int
    loops: tuple[int, ...]
    rest: Tokens
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """A loop: where it stands, its first number and stride, how often it runs in each (file, outer loops)."""

    text: str
    first: int
    stride: int
    counts: Mapping[tuple[int, tuple[int, ...]], int]
    outer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A family of tensors: name parts (text, or the index of a site), its loops, a condition on the last, its rows."""

    parts: tuple[str | int, ...]
    sites: tuple[int, ...]
    condition: str | None
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class _Way:
    """How the names of some rows begin: their parts so far, the loops in them, the condition on the last of these."""

    parts: tuple[str | int, ...] = ()
    sites: tuple[int, ...] = ()
    condition: str | None = None

    def through(self, loop: int, condition: str | None) -> _Way:
        """On behind the number of a loop."""
        return _Way((*self.parts, loop), (*self.sites, loop), condition)


@dataclass(slots=True)
class Folded:
    """The loops, in order, and the families of tensors."""

    sites: list[Site] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)


def fold(checkpoints: Sequence[Mapping[str, TensorInfo]], literal: frozenset[str] = frozenset()) -> Folded:
    """Fold the names of one or several checkpoints of a family; sites whose text is in `literal` keep their numbers.

    Raises UnsupportedError where a name has too many numbers.
    """
    rows = [
        Row(file, (), tokens(name), info.shape)
        for file, checkpoint in enumerate(checkpoints)
        for name, info in checkpoint.items()
    ]
    deep = max(rows, key=lambda row: len(row.rest)).rest
    if len(deep) > 2 * MAX_NUMBERS + 1:
        raise UnsupportedError(
            f"a name that begins with {cut(str(deep[0]), 60)!r} has more than {MAX_NUMBERS} numbers", hint=HINT
        )
    folding = _Folding(len(checkpoints), literal)
    folding.descend(_Way(), rows)
    return folding.folded


def tokens(name: str) -> Tokens:
    """``"h.0.w"`` as ``("h.", 0, ".w")``. A number as Python would not write it stays text."""
    pieces = _NUMBER.split(name)
    return tuple(int(piece) if position % 2 else piece for position, piece in enumerate(pieces))


class _Folding:
    def __init__(self, files: int, literal: frozenset[str]) -> None:
        self.files, self.literal = files, literal
        self.folded = Folded()
        self.shared: dict[tuple[object, ...], int] = {}

    def descend(self, way: _Way, rows: Iterable[Row]) -> None:
        """Take the next text of each row, and fold at the number after it."""
        by_text: dict[tuple[str, bool], list[Row]] = defaultdict(list)
        for row in rows:
            by_text[str(row.rest[0]), len(row.rest) == 1].append(row)
        for (text, last), group in by_text.items():
            on = replace(way, parts=(*way.parts, text))
            if last:
                for same in _by(group, lambda row: len(row.shape)).values():
                    self.folded.leaves.append(Leaf(on.parts, on.sites, on.condition, tuple(same)))
            else:
                self.site(on, group)

    def site(self, way: _Way, rows: list[Row]) -> None:
        place = _spelled(way.parts)
        followers = _by(rows, _follower)
        every = _numbers(rows)
        full = [key for key, group in followers.items() if _numbers(group) == every]
        if self.keeps_numbers(place, every, rows):
            self.keep(way, rows)
        elif full and (line := _line(every)):
            self.loop(way, line, rows, every)
        else:
            self.each(way, followers)

    def keeps_numbers(self, place: str, every: Numbers, rows: list[Row]) -> bool:
        """Whether numbers are part of the name: one and the same everywhere, or glued to a word (conv1, conv2)."""
        if place in self.literal or max(map(len, every.values())) > MAX_SITE:
            return True
        same = len(set(every.values())) == 1 and {file for file, _ in every} == set(range(self.files))
        if not same:
            return False
        numbers = next(iter(every.values()))
        glued = not place.endswith(".") and place != ""
        return len(numbers) == 1 or (glued and (len(numbers) < 4 or not _alike(rows)))

    def keep(self, way: _Way, rows: Iterable[Row]) -> None:
        """Go on under each number by itself, on the condition that the loop around it has that number."""
        rows = list(rows)
        around = {(row.file, row.loops) for row in rows}
        for number, group in sorted(_by(rows, lambda row: int(row.rest[1])).items()):
            text = f"{way.parts[-1]}{number}"
            moved = [replace(row, rest=(f"{text}{row.rest[2]}", *row.rest[3:])) for row in group]
            condition = _both(way.condition, _where(group, around, way.sites))
            self.descend(replace(way, parts=way.parts[:-1], condition=condition), moved)

    def each(self, way: _Way, followers: Mapping[Follower, list[Row]]) -> None:
        """A loop for each follower whose numbers are a progression that changes between checkpoints; else numbers.

        A follower that two kinds of layer have (the bias of a linear layer and of a norm) is split between the
        progressions that its siblings have.
        """
        lines = [every for group in followers.values() if _line(every := _numbers(group)) is not None]
        for group in followers.values():
            for part in _split(group, lines):
                every = _numbers(part)
                line = _line(every)
                if line is not None and len(set(every.values())) > 1:
                    self.loop(way, line, part, every)
                else:
                    self.keep(way, part)

    def loop(self, way: _Way, line: tuple[int, int], rows: list[Row], every: Numbers) -> None:
        first, stride = line
        counts = {key: len(numbers) for key, numbers in every.items()}
        index = self.index(Site(_spelled(way.parts), first, stride, counts, way.sites))
        for group in _by(rows, _follower).values():
            found = _numbers(group)
            inner = [
                replace(row, loops=(*row.loops, (int(row.rest[1]) - first) // stride), rest=row.rest[2:])
                for row in group
            ]
            if all(found.get(key) == numbers for key, numbers in every.items()):
                self.descend(way.through(index, way.condition), inner)
                continue
            special = _special(found, every, first)
            if special is not None:
                self.descend(way.through(index, special.replace("#", f"#{index}")), inner)
            else:
                self.keep(way, group)

    def index(self, site: Site) -> int:
        """The site's number; sites that run alike in the same place share one."""
        key = (site.text, site.first, site.stride, tuple(sorted(site.counts.items())), site.outer)
        if key not in self.shared:
            self.shared[key] = len(self.folded.sites)
            self.folded.sites.append(site)
        return self.shared[key]


def _by(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    groups: dict[K, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _follower(row: Row) -> Follower:
    """What follows the number, its own numbers left out, and the number of dimensions."""
    return tuple(token if isinstance(token, str) else 0 for token in row.rest[2:]), len(row.shape)


def _numbers(rows: Iterable[Row]) -> dict[tuple[int, tuple[int, ...]], frozenset[int]]:
    """The numbers at a site for each (file, outer loops)."""
    found: dict[tuple[int, tuple[int, ...]], set[int]] = defaultdict(set)
    for row in rows:
        found[row.file, row.loops].add(int(row.rest[1]))
    return {key: frozenset(numbers) for key, numbers in found.items()}


def _line(every: Numbers) -> tuple[int, int] | None:
    """(first, stride) of the progression that the numbers are, the same everywhere; None where they are not."""
    longest = max((sorted(numbers) for numbers in every.values()), key=len)
    first, stride = longest[0], longest[1] - longest[0] if len(longest) > 1 else 1
    for numbers in every.values():
        if numbers != frozenset(range(first, first + stride * len(numbers), stride)):
            return None
    return first, stride


def _split(rows: list[Row], lines: Sequence[Numbers]) -> list[list[Row]]:
    """The rows by the progressions that together make up all of their numbers; in one piece where none do."""
    if _line(_numbers(rows)) is not None:
        return [rows]
    left, pieces = rows, []
    for line in lines:
        piece = [row for row in left if int(row.rest[1]) in line.get((row.file, row.loops), ())]
        if piece and _numbers(piece) == line:
            pieces.append(piece)
            left = [row for row in left if int(row.rest[1]) not in line.get((row.file, row.loops), ())]
    return pieces if not left else [rows]


def _special(found: Numbers, every: Numbers, first: int) -> str | None:
    """The condition (``#`` is the loop) under which a tensor is there: at the first, not at the first; or None."""
    if all(found.get(key) == frozenset({first}) for key in every):
        return "# == 0"
    if all(found.get(key, frozenset()) == numbers - {first} for key, numbers in every.items()):
        return "# > 0"
    return None


def _where(rows: Iterable[Row], around: set[tuple[int, tuple[int, ...]]], sites: tuple[int, ...]) -> str | None:
    """The condition under which rows are there that not all turns of the last loop have; None where it is no such."""
    if not sites:
        return None
    firsts = {key for key in around if key[1][-1] == 0}
    found = {(row.file, row.loops) for row in rows}
    if found == firsts != around:
        return f"#{sites[-1]} == 0"
    return f"#{sites[-1]} > 0" if firsts and found == around - firsts else None


def _both(first: str | None, second: str | None) -> str | None:
    return " and ".join(dict.fromkeys(filter(None, (first, second)))) or None


def _alike(rows: Iterable[Row]) -> bool:
    """Whether every number has the same shapes behind it, in each checkpoint."""
    shapes: dict[object, set[tuple[int, ...]]] = defaultdict(set)
    for row in rows:
        shapes[row.file, row.loops, _follower(row)].add(row.shape)
    return all(len(found) == 1 for found in shapes.values())


def _spelled(parts: Sequence[str | int]) -> str:
    return "".join(part if isinstance(part, str) else "0" for part in parts)
