"""Keys that were chosen to have one hash: a dict of 40,000 of them takes minutes, for each is compared with all others.

Python's hashes of strings and bytes differ from process to process; those of ints (modulo 2^61 - 1), of complex numbers
and of tuples and frozensets of them are the same everywhere, so that a file can be made of such keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

MAX_COLLISIONS = 100
"""Keys of one container that share a hash; by chance not even two do."""

_OWN_HASH = (1 << 61) - 1  # ints below it are their own hash


class Collisions:
    """Counts the keys of containers by their hash."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[object, dict[int, int]]] = {}  # holds the containers, so that no id comes twice

    def add(self, container: object, keys: Iterable[Hashable]) -> None:
        """Count keys that `container` is given. Raises LimitError, TypeError on what has no hash."""
        chosen = [key for key in keys if _can_be_chosen(key)]
        if not chosen:
            return
        _, counts = self._of.setdefault(id(container), (container, {}))
        for key in chosen:
            value = hash(key)
            counts[value] = counts.get(value, 0) + 1
            if counts[value] > MAX_COLLISIONS:
                raise LimitError(f"more than {MAX_COLLISIONS} keys of one hash", hint="do not trust it")


def _can_be_chosen(key: Hashable) -> bool:
    if isinstance(key, int):
        return not -_OWN_HASH < key < _OWN_HASH
    return isinstance(key, (tuple, frozenset, complex))
