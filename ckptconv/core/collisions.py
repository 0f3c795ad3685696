"""Guards against expensive keys: ints with many digits, and keys that were chosen to share a hash. A dict of 40,000
keys with the same hash takes minutes, since each is compared with all others.

Python's hashes of strings and bytes differ from process to process. Those of ints (modulo 2^61 - 1), complex numbers,
and tuples and frozensets of these are always the same, so an attacker can put such keys into a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

MAX_COLLISIONS = 100
"""The most keys of one container that may share a hash. By chance, not even two do."""

MAX_KEY_BITS = 14_276
"""The most bits of an int in a key, some 4,300 digits. Keys become parts of names, and Python refuses to write longer
ints in decimal.
"""

_HASH_MODULUS = (1 << 61) - 1  # sys.hash_info.modulus on 64-bit systems


def check_digits(keys: Iterable[Hashable]) -> None:
    """Raise LimitError for an int with more than `MAX_KEY_BITS` bits, also in tuples."""
    for key in keys:
        if isinstance(key, tuple):
            check_digits(key)
        elif isinstance(key, int) and key.bit_length() > MAX_KEY_BITS:
            raise LimitError("a key has more than 4,300 digits")


class Collisions:
    """Counts the keys of containers by their hash."""

    def __init__(self) -> None:
        # by id; the containers are kept alive, lest an id is reused
        self._counts: dict[int, tuple[object, dict[int, int]]] = {}

    def add(self, container: object, keys: Iterable[Hashable]) -> None:
        """Count keys that are put into `container`. Raises LimitError, and TypeError for a key without a hash."""
        suspicious = [key for key in keys if _has_predictable_hash(key)]
        if not suspicious:
            return
        _, counts = self._counts.setdefault(id(container), (container, {}))
        for key in suspicious:
            value = hash(key)
            counts[value] = counts.get(value, 0) + 1
            if counts[value] > MAX_COLLISIONS:
                raise LimitError(f"more than {MAX_COLLISIONS} keys of one hash")


def _has_predictable_hash(key: Hashable) -> bool:
    """Whether an attacker can choose such keys to share a hash. Small ints cannot: they are their own hash."""
    if isinstance(key, int):
        return not -_HASH_MODULUS < key < _HASH_MODULUS
    return isinstance(key, (tuple, frozenset, complex))
