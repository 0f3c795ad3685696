"""The tensors that no fold has taken yet, by a key and in their order. To find some near a place, and to take one, cost
no pass over all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from operator import itemgetter
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

Key = TypeVar("Key", bound="Hashable")

Entry = tuple[int, str, int]
"""A tensor's place among all, its name, and of a weight the dimension of its outputs."""


class Free(Generic[Key]):
    """The entries of each key, by place."""

    def __init__(self) -> None:
        self._entries: dict[Key, list[Entry]] = defaultdict(list)

    def add(self, key: Key, entry: Entry) -> None:
        """Add an entry behind all others of its key."""
        self._entries[key].append(entry)

    def first(self, key: Key, count: int) -> list[Entry]:
        """The first ones, up to so many."""
        return self._entries[key][:count]

    def before(self, key: Key, place: int, count: int) -> list[Entry]:
        """The nearest before a place, up to so many, in their order."""
        at = self._at(key, place)
        return self._entries[key][max(at - count, 0) : at]

    def behind(self, key: Key, place: int, count: int) -> list[Entry]:
        """The nearest from a place on, up to so many, in their order."""
        at = self._at(key, place)
        return self._entries[key][at : at + count]

    def take(self, key: Key, place: int) -> None:
        """Remove the entries that a key has at this place."""
        entries, at = self._entries[key], self._at(key, place)
        while at < len(entries) and entries[at][0] == place:
            del entries[at]

    def _at(self, key: Key, place: int) -> int:
        return bisect_left(self._entries[key], place, key=itemgetter(0))
