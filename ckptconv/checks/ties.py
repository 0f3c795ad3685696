"""Finds names that share one tensor in one checkpoint, but not in the other."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Mapping, Sequence

    from ckptconv.core.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class TieChange:
    """Names that share one tensor on one side only.

    made:   whether that is the second side.
    names:  the names that share the tensor; those in the second checkpoint, if it has them.
    groups: the groups of these names that share a tensor on the other side, including groups of one.
    """

    made: bool
    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]


def compare_ties(a: Checkpoint, b: Checkpoint, names: Mapping[str, str], cut: Container[str]) -> list[TieChange]:
    """The broken ties, then the new ones, among names that both have.

    names: maps the names in `a` to those in `b`.
    cut:   the names in `a` whose tensor was cut into pieces, or became a piece: they share nothing any more.
    """
    ours = []
    for group in a.ties:
        kept = [names[name] for name in group if name in names]
        ours.append([*kept, *(name for name in group if kept and name not in names and name in cut)])
    shared = set(names.values())
    theirs = [[name for name in group if name in shared] for group in b.ties]
    return [*_split_groups(ours, theirs, made=False), *_split_groups(theirs, ours, made=True)]


def _split_groups(groups: Sequence[Sequence[str]], others: Sequence[Sequence[str]], *, made: bool) -> list[TieChange]:
    """The groups whose names do not all share one tensor on the other side."""
    home: dict[str, int] = {name: i for i, group in enumerate(others) for name in group}
    found = []
    for group in groups:
        parts: dict[Hashable, list[str]] = defaultdict(list)
        for name in group:
            parts[home.get(name, name)].append(name)
        if len(parts) > 1:
            found.append(TieChange(made, tuple(group), tuple(tuple(part) for part in parts.values())))
    return found
