"""Tensor names: their modules, what two of them share, names that are free, and a bound on their total length."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ckptconv.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Sequence

T = TypeVar("T")

ALONE = "tensor"
"""The name of a file's only tensor, if it has none."""

MAX_NAMES = 1 << 27
"""The most characters of all names in a file. The names of 1,000,000 tensors have some 80 each."""


def module_of(name: str) -> str:
    """The module that a tensor of this name belongs to; "" for the network itself."""
    return name.rpartition(".")[0]


def shared_ends(a: Sequence[str], b: Sequence[str], *, end_first: bool = False) -> tuple[int, int]:
    """How many components two names share at the start, and how many of the others at the end.

    end_first: the end is counted first instead, so that in ``0.w`` → ``0.0.w`` the new index is at the start.
    """
    if end_first:
        end, start = shared_ends(a[::-1], b[::-1])
        return start, end
    start = end = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return start, end


class NameBudget:
    """Bounds the total length of all names that are made from paths: a long key is in the file once, but in the name of
    everything below it.
    """

    def __init__(self) -> None:
        self._characters = 0

    def counted(self, name: str) -> str:
        """The name, after its characters are counted. Raises LimitError if there are too many."""
        self._characters += len(name)
        if self._characters > MAX_NAMES:
            raise LimitError(f"the names of what is in it have more than {MAX_NAMES:,} characters")
        return name


def free_key(key: str, taken: Container[Hashable]) -> str:
    """The key, with underscores added while it is taken."""
    while key in taken:
        key += "_"
    return key


def numbered(name: str, *taken: Container[str]) -> str:
    """The name; with a number (``w#2``) if one of `taken` has it already."""
    return free_name(
        name, lambda candidate: any(candidate in names for names in taken), lambda number: f"{name}#{number}"
    )


def free_name(name: T, is_taken: Callable[[T], bool], numbered: Callable[[int], T]) -> T:
    """The name; or if it is taken, the first of `numbered(2)`, `numbered(3)`, … that is free.

    A file may ask for one name a million times, so numbers are not tried one by one. Since they are given in order,
    doubling and halving finds where they end.
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
