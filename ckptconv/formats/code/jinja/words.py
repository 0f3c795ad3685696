"""Helpers for lists of tokens: what is inside brackets, and between separators."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_DEPTH = 16
"""Nested brackets in an honest template, at most."""

_KEYWORDS = frozenset(["in", "and", "or", "not", "if", "else", "elif", "is", "set", "for", "recursive"])
QUOTES = ("'", '"')
OPEN, CLOSE = frozenset("([{"), frozenset(")]}")


def depth_of(words: list[str]) -> int:
    """How deeply brackets are nested."""
    deepest = depth = 0
    for word in words:
        depth += (word in OPEN) - (word in CLOSE)
        deepest = max(deepest, depth)
    return deepest


def within(words: list[str], start: int) -> list[str]:
    """The words inside the bracket that opens at `start`."""
    depth = 0
    for i in range(start, len(words)):
        depth += (words[i] in OPEN) - (words[i] in CLOSE)
        if not depth:
            return words[start + 1 : i]
    return words[start + 1 :]


def split(words: list[str], marks: Collection[str]) -> list[list[str]]:
    """The parts between the separators `marks` that are not inside brackets."""
    parts: list[list[str]] = [[]]
    depth = 0
    for word in words:
        depth += (word in OPEN) - (word in CLOSE)
        if word in marks and not depth:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def first(words: list[str]) -> list[str]:
    """The first of comma-separated arguments."""
    return split(words, (",",))[0]


def is_name(word: str) -> bool:
    """Whether a word may be a variable's name."""
    return word[0].isalpha() and word not in _KEYWORDS
