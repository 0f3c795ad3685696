"""Keys that cost too much: ints of many digits, and those that were chosen to have one hash. A dict of 40,000 such keys
takes minutes, for each is compared with all others.

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

MAX_KEY_BITS = 14_276
"""Of an int in a key, some 4,300 digits: keys become parts of names, and Python spells no longer int in decimal."""

_OWN_HASH = (1 << 61) - 1  # ints below it are their own hash


def check_digits(keys: Iterable[Hashable]) -> None:
    """Raise LimitError for an int past `MAX_KEY_BITS`, in tuples too."""
    for key in keys:
        if isinstance(key, tuple):
            check_digits(key)
        elif isinstance(key, int) and key.bit_length() > MAX_KEY_BITS:
            raise LimitError("a key has more than 4,300 digits")


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
                raise LimitError(f"more than {MAX_COLLISIONS} keys of one hash")


def _can_be_chosen(key: Hashable) -> bool:
    if isinstance(key, int):
        return not -_OWN_HASH < key < _OWN_HASH
    return isinstance(key, (tuple, frozenset, complex))
