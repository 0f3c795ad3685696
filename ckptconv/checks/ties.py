"""Which names share one tensor in one checkpoint and not in the other."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Mapping, Sequence

    from ckptconv.core.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class TieChange:
    """Names (of B, where it has them) that share one tensor on one side alone; `groups`: those that still do there."""

    made: bool
    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]


def compare_ties(a: Checkpoint, b: Checkpoint, names: Mapping[str, str], cut: Container[str]) -> list[TieChange]:
    """Ties broken, then ties made, among names that both have; `names` says what those of `a` are called in `b`.

    A tensor of `a` that is in pieces, or a piece, in `b` shares nothing any more: these names are in `cut`.
    """
    ours = []
    for group in a.ties:
        kept = [names[name] for name in group if name in names]
        ours.append([*kept, *(name for name in group if kept and name not in names and name in cut)])
    shared = set(names.values())
    theirs = [[name for name in group if name in shared] for group in b.ties]
    return [*_split(ours, theirs, made=False), *_split(theirs, ours, made=True)]


def _split(groups: Sequence[Sequence[str]], others: Sequence[Sequence[str]], *, made: bool) -> list[TieChange]:
    """The groups that fall apart on the other side."""
    home: dict[str, int] = {name: i for i, group in enumerate(others) for name in group}
    found = []
    for group in groups:
        parts: dict[Hashable, list[str]] = defaultdict(list)
        for name in group:
            parts[home.get(name, name)].append(name)
        if len(parts) > 1:
            found.append(TieChange(made, tuple(group), tuple(tuple(part) for part in parts.values())))
    return found
