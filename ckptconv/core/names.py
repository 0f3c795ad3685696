"""Names of tensors: the module that one is of, names that nothing else has."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ckptconv.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable

T = TypeVar("T")

ALONE = "tensor"
"""What a tensor is called that a file holds alone, without a name."""

MAX_NAMES = 1 << 27
"""Characters of a file's names: those of 1,000,000 tensors have some 80 each."""


def module_of(name: str) -> str:
    """The module that a tensor of this name belongs to, "" for the network itself."""
    return name.rpartition(".")[0]


class Names:
    """Counts the characters of names that are made of paths. A key that is long stands in a file once, and in the name
    of everything below it.
    """

    def __init__(self) -> None:
        self._count = 0

    def made(self, name: str) -> str:
        """The name, which is counted. Raises LimitError."""
        self._count += len(name)
        if self._count > MAX_NAMES:
            raise LimitError(f"the names of what is in it have more than {MAX_NAMES:,} characters")
        return name


def free_key(key: str, taken: Container[Hashable]) -> str:
    """The key, longer where another value has it."""
    while key in taken:
        key += "_"
    return key


def numbered(name: str, *taken: Container[str]) -> str:
    """The name, with a number behind it where something in one of `taken` has it: ``w#2``."""
    return free_name(name, lambda one: any(one in names for names in taken), lambda number: f"{name}#{number}")


def free_name(name: T, is_taken: Callable[[T], bool], numbered: Callable[[int], T]) -> T:
    """The name, or where something has it the first of `numbered(2)`, `numbered(3)`, … that is free.

    A file may ask for one name a million times. So numbers are not tried one after the other: they are given in order,
    and where they end is found by doubling and halving.
    """
    if not is_taken(name):
        return name
    low, high = 1, 2
    while is_taken(numbered(high)):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if is_taken(numbered(middle)):
            low = middle
        else:
            high = middle
    return numbered(high)
