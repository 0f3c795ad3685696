"""Counts, lists, names and shapes as messages show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def plural(count: int, word: str, words: str = "") -> str:
    """A count with its noun: ``1 tensor``, ``12 tensors``."""
    return f"{count:,} {word if count == 1 else words or word + 's'}"


def listed(parts: Sequence[str], most: int = 4) -> str:
    """The first few parts, and how many more there are: ``a, b, c, d and 8 more``."""
    more = f" and {len(parts) - most:,} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more


def quoted(names: Iterable[str], most: int = 4) -> str:
    """The first few names in quotes, and how many more there are."""
    all_names = list(names)
    return listed([*map(repr, all_names[:most]), *all_names[most:]], most)


def cut(text: str, most: int) -> str:
    """The first `most` characters of a text, and … if there are more."""
    return text if len(text) <= most else f"{text[:most]}…"


def shape_text(shape: Iterable[int | str | None]) -> str:
    """``[512, 784]``, with ``?`` for an open dimension (None)."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
