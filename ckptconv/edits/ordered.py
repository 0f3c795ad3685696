"""A mapping whose order survives renames: a new name takes the place of the one that it replaces.

A dict can only append. To rename one of its keys in its place, it has to be made anew, so that a rules file of 20,000
renames would take 20,000 times 20,000 steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

V = TypeVar("V")


class OrderedMap(Mapping[str, V]):
    """Values by name, in an order of which names are replaced one by one. Starts with a copy of `items`.

    A replacement costs time linear in the names that it touches, not in all names. For that, names are chained as soon
    as a replacement leaves most of them alone; until then this is a dict.
    """

    def __init__(self, items: Mapping[str, V]) -> None:
        self._values = dict(items)  # in order as long as there is no chain
        self._chain: _Chain | None = None

    def __getitem__(self, name: str) -> V:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values if self._chain is None else self._chain)

    def update(self, items: Mapping[str, V]) -> None:
        """Values for names, as `dict.update` sets them: new names come last, and others keep their places."""
        if self._chain is not None:
            self._chain.append(name for name in items if name not in self._values)
        self._values.update(items)

    def remove(self, names: AbstractSet[str]) -> None:
        """Remove these names."""
        self.replace(names, {})

    def replace(self, gone: AbstractSet[str], made_at: Mapping[str, Mapping[str, V]]) -> None:
        """Remove the names `gone`, and add others: those of ``made_at[name]``, in their order, follow `name`, or stand
        in its place if it is gone.

        `made_at` may give a name that is gone a new place and value, but has no name twice, nor one that stays.
        """
        if 4 * (len(gone) + len(made_at)) > len(self._values):
            self._make_anew(gone, made_at)
            return
        if self._chain is None:
            self._chain = _Chain(self._values)
        self._chain.replace(gone, made_at)
        for name in gone:
            del self._values[name]
        for made in made_at.values():
            self._values.update(made)

    def _make_anew(self, gone: AbstractSet[str], made_at: Mapping[str, Mapping[str, V]]) -> None:
        values: dict[str, V] = {}
        for name, value in self.items():
            if name not in gone:
                values[name] = value
            values.update(made_at.get(name, {}))
        self._values, self._chain = values, None


class _Link:
    """A name in a chain. A circle of links has one, without a name, before the first and after the last name."""

    __slots__ = ("after", "before", "name")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.before = self.after = self

    def follow_with(self, link: _Link) -> None:
        link.before, link.after = self, self.after
        self.after.before = self.after = link

    def take_out(self) -> None:
        self.before.after, self.after.before = self.after, self.before


class _Chain:
    """Names in order, of which any can be taken out, and others put in its place, in constant time."""

    def __init__(self, names: Iterable[str]) -> None:
        self._ends = _Link()
        self._links: dict[str, _Link] = {}
        self.append(names)

    def __iter__(self) -> Iterator[str]:
        link = self._ends.after
        while link is not self._ends:
            yield link.name
            link = link.after

    def append(self, names: Iterable[str]) -> None:
        for name in names:
            link = self._links[name] = _Link(name)
            self._ends.before.follow_with(link)

    def replace(self, gone: AbstractSet[str], made_at: Mapping[str, Iterable[str]]) -> None:
        added: dict[str, _Link] = {}
        for place, names in made_at.items():
            link = self._links[place]
            for name in names:
                added[name] = _Link(name)
                link.follow_with(added[name])
                link = added[name]
        for name in gone:
            self._links.pop(name).take_out()
        self._links.update(added)
