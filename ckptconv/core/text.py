"""Counts, lists, names and shapes as messages for people have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def plural(count: int, word: str, words: str = "") -> str:
    """``1 tensor``, ``12 tensors``."""
    return f"{count:,} {word if count == 1 else words or word + 's'}"


def listed(parts: Sequence[str], most: int = 4) -> str:
    """The first few of many, and how many more there are."""
    return ", ".join(parts[:most]) + (f" and {len(parts) - most:,} more" if len(parts) > most else "")


def quoted(names: Iterable[str], most: int = 4) -> str:
    """The first few of many names, in quotes, and how many more there are."""
    every = list(names)
    return listed([*map(repr, every[:most]), *every[most:]], most)


def cut(text: str, most: int) -> str:
    """As much of a text as is shown, and … where there is more."""
    return text if len(text) <= most else f"{text[:most]}…"


def shape_text(shape: Iterable[int | str | None]) -> str:
    """``[512, 784]``; an open dimension, None, as ``?``."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
