"""Folds numbered names into loops: finds the structure behind ``model.layers.0.mlp.weight``, ``…1…``, ``…2…``.

A *site* is a place in names where numbers stand. It becomes a loop if what follows each number is alike; names that
only some numbers have (extra tensors of the first block) then keep a condition, or their number. If the followers are
not alike, each follower whose numbers form an arithmetic progression in every checkpoint gets a loop of its own (an
``nn.Sequential`` of convolutions and norms), and everything else keeps its numbers.
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
"""A name split at its numbers: text and numbers in turn, starting with text."""

Follower = tuple[Tokens, int]

K = TypeVar("K")

Numbers = Mapping[tuple[int, tuple[int, ...]], frozenset[int]]
"""The numbers at a site for each (file, outer loops)."""

_NUMBER = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,8})(?![0-9])")

_VARIABLES = "/vars/"
"""What Keras puts before the numbers of a layer's variables, which are no loop."""

MAX_SITE = 100_000
"""The most numbers at one site."""

MAX_NUMBERS = 32
"""The most numbers in a name, each of which may be a loop inside the one before; models have up to six."""

HINT = "such a spec is written by hand: ckptconv/arch/README.md says how"


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor: its checkpoint, the values of the loops around it, the rest of its name, its shape."""

    file: int
    loops: tuple[int, ...]
    rest: Tokens
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """A loop: its place in names, its first number and stride, and how often it runs in each (file, outer loops)."""

    text: str
    first: int
    stride: int
    counts: Mapping[tuple[int, tuple[int, ...]], int]
    outer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A family of tensors: the parts of its name (text, or a site's index), its loops, a condition on the last, its
    rows.
    """

    parts: tuple[str | int, ...]
    sites: tuple[int, ...]
    condition: str | None
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class _Path:
    """How the names of some rows start: the parts so far, the loops among them, and the condition on the last loop."""

    parts: tuple[str | int, ...] = ()
    sites: tuple[int, ...] = ()
    condition: str | None = None

    def into(self, loop: int, condition: str | None) -> _Path:
        """The path continued by the number of a loop."""
        return _Path((*self.parts, loop), (*self.sites, loop), condition)


@dataclass(slots=True)
class Folded:
    """The loops, in order, and the families of tensors."""

    sites: list[Site] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)


def fold(checkpoints: Sequence[Mapping[str, TensorInfo]], literal: frozenset[str] = frozenset()) -> Folded:
    """Fold the names of one or several checkpoints of a family. Sites whose text is in `literal` keep their numbers.

    Raises UnsupportedError for a name with too many numbers.
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
    folding.descend(_Path(), rows)
    return folding.folded


def tokens(name: str) -> Tokens:
    """``"h.0.w"`` as ``("h.", 0, ".w")``. A number that Python would write differently stays text."""
    pieces = _NUMBER.split(name)
    return tuple(int(piece) if position % 2 else piece for position, piece in enumerate(pieces))


class _Folding:
    def __init__(self, files: int, literal: frozenset[str]) -> None:
        self.files, self.literal = files, literal
        self.folded = Folded()
        self.shared: dict[tuple[object, ...], int] = {}

    def descend(self, path: _Path, rows: Iterable[Row]) -> None:
        """Consume the next text of each row, and fold at the number after it."""
        by_text: dict[tuple[str, bool], list[Row]] = defaultdict(list)
        for row in rows:
            by_text[str(row.rest[0]), len(row.rest) == 1].append(row)
        for (text, last), group in by_text.items():
            longer = replace(path, parts=(*path.parts, text))
            if last:
                for same in _by(group, lambda row: len(row.shape)).values():
                    self.folded.leaves.append(Leaf(longer.parts, longer.sites, longer.condition, tuple(same)))
            else:
                self.fold_site(longer, group)

    def fold_site(self, path: _Path, rows: list[Row]) -> None:
        """Decide what becomes of a site: plain numbers, one loop, or a loop for each follower."""
        place = _place_text(path.parts)
        followers = _by(rows, _follower)
        every = _numbers(rows)
        full = [key for key, group in followers.items() if _numbers(group) == every]
        if self.keeps_numbers(place, every, rows):
            self.keep(path, rows)
        elif full and (line := _line(every)):
            self.add_loop(path, line, rows, every)
        else:
            self.fold_followers(path, followers)

    def keeps_numbers(self, place: str, every: Numbers, rows: list[Row]) -> bool:
        """Whether numbers are part of the name: a single one everywhere, or glued to a word (conv1, conv2)."""
        if place in self.literal or place.endswith(_VARIABLES) or max(map(len, every.values())) > MAX_SITE:
            return True
        same = len(set(every.values())) == 1 and {file for file, _ in every} == set(range(self.files))
        if not same:
            return False
        numbers = next(iter(every.values()))
        glued = not place.endswith((".", "/")) and place != ""
        return len(numbers) == 1 or (glued and (len(numbers) < 4 or not _have_same_shapes(rows)))

    def keep(self, path: _Path, rows: Iterable[Row]) -> None:
        """Go on with each number as text; if it depends on the turn of the loop around it, with that condition."""
        rows = list(rows)
        around = {(row.file, row.loops) for row in rows}
        for number, group in sorted(_by(rows, lambda row: int(row.rest[1])).items()):
            text = f"{path.parts[-1]}{number}"
            moved = [replace(row, rest=(f"{text}{row.rest[2]}", *row.rest[3:])) for row in group]
            condition = _and_conditions(path.condition, _condition_on_turn(group, around, path.sites))
            self.descend(replace(path, parts=path.parts[:-1], condition=condition), moved)

    def fold_followers(self, path: _Path, followers: Mapping[Follower, list[Row]]) -> None:
        """Make a loop for each follower whose numbers are a progression that changes between checkpoints, else keep
        numbers.

        A follower that two kinds of layers have (linear layers and norms both have a bias) is split between the
        progressions that its siblings have.
        """
        lines = [every for group in followers.values() if _line(every := _numbers(group)) is not None]
        for group in followers.values():
            for part in _split(group, lines):
                every = _numbers(part)
                line = _line(every)
                if line is not None and len(set(every.values())) > 1:
                    self.add_loop(path, line, part, every)
                else:
                    self.keep(path, part)

    def add_loop(self, path: _Path, line: tuple[int, int], rows: list[Row], every: Numbers) -> None:
        first, stride = line
        counts = {key: len(numbers) for key, numbers in every.items()}
        index = self.index(Site(_place_text(path.parts), first, stride, counts, path.sites))
        for group in _by(rows, _follower).values():
            found = _numbers(group)
            inner = [
                replace(row, loops=(*row.loops, (int(row.rest[1]) - first) // stride), rest=row.rest[2:])
                for row in group
            ]
            if all(found.get(key) == numbers for key, numbers in every.items()):
                self.descend(path.into(index, path.condition), inner)
                continue
            special = _condition_at_first(found, every, first)
            if special is not None:
                self.descend(path.into(index, special.replace("#", f"#{index}")), inner)
            else:
                self.keep(path, group)

    def index(self, site: Site) -> int:
        """The site's number. Sites in the same place that run alike share one."""
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
    """What follows the number, without its own numbers, and the number of dimensions."""
    return tuple(token if isinstance(token, str) else 0 for token in row.rest[2:]), len(row.shape)


def _numbers(rows: Iterable[Row]) -> dict[tuple[int, tuple[int, ...]], frozenset[int]]:
    """The numbers at a site for each (file, outer loops)."""
    found: dict[tuple[int, tuple[int, ...]], set[int]] = defaultdict(set)
    for row in rows:
        found[row.file, row.loops].add(int(row.rest[1]))
    return {key: frozenset(numbers) for key, numbers in found.items()}


def _line(every: Numbers) -> tuple[int, int] | None:
    """(first, stride) of the progression that the numbers are, the same everywhere; None if they are not one."""
    longest = max((sorted(numbers) for numbers in every.values()), key=len)
    first, stride = longest[0], longest[1] - longest[0] if len(longest) > 1 else 1
    for numbers in every.values():
        if numbers != frozenset(range(first, first + stride * len(numbers), stride)):
            return None
    return first, stride


def _split(rows: list[Row], lines: Sequence[Numbers]) -> list[list[Row]]:
    """The rows, split by progressions that together give all their numbers; in one piece if none do."""
    if _line(_numbers(rows)) is not None:
        return [rows]
    left, pieces = rows, []
    for line in lines:
        piece = [row for row in left if int(row.rest[1]) in line.get((row.file, row.loops), ())]
        if piece and _numbers(piece) == line:
            pieces.append(piece)
            left = [row for row in left if int(row.rest[1]) not in line.get((row.file, row.loops), ())]
    return pieces if not left else [rows]


def _condition_at_first(found: Numbers, every: Numbers, first: int) -> str | None:
    """The condition (``#`` is the loop) for tensors that only the first turn has, or all others; None for none."""
    if all(found.get(key) == frozenset({first}) for key in every):
        return "# == 0"
    if all(found.get(key, frozenset()) == numbers - {first} for key, numbers in every.items()):
        return "# > 0"
    return None


def _condition_on_turn(
    rows: Iterable[Row], around: set[tuple[int, tuple[int, ...]]], sites: tuple[int, ...]
) -> str | None:
    """The condition for rows that only first turns of the last loop have, or all others; None if there is none."""
    if not sites:
        return None
    firsts = {key for key in around if key[1][-1] == 0}
    found = {(row.file, row.loops) for row in rows}
    if found == firsts != around:
        return f"#{sites[-1]} == 0"
    return f"#{sites[-1]} > 0" if firsts and found == around - firsts else None


def _and_conditions(first: str | None, second: str | None) -> str | None:
    return " and ".join(dict.fromkeys(filter(None, (first, second)))) or None


def _have_same_shapes(rows: Iterable[Row]) -> bool:
    """Whether every number has the same shapes behind it, within each checkpoint."""
    shapes: dict[object, set[tuple[int, ...]]] = defaultdict(set)
    for row in rows:
        shapes[row.file, row.loops, _follower(row)].add(row.shape)
    return all(len(found) == 1 for found in shapes.values())


def _place_text(parts: Sequence[str | int]) -> str:
    return "".join(part if isinstance(part, str) else "0" for part in parts)
