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


def size(nbytes: int) -> str:
    """A number of bytes with three significant digits: ``68.9 kB``."""
    if nbytes < 1000:
        return f"{nbytes} B"
    return _three_digits(nbytes, ["kB", "MB", "GB", "TB", "PB", "EB"])


def approximately(count: int) -> str:
    """A count of 1,000 or more with three significant digits: ``124 M``."""
    return _three_digits(count, ["k", "M", "G", "T", "P", "E"])


def _three_digits(number: int, units: list[str]) -> str:
    value, power = number / 1000, 0
    while value >= 999.5 and power < len(units) - 1:
        value /= 1000
        power += 1
    decimals = 0
    if value < 9.995:
        decimals = 2
    elif value < 99.95:
        decimals = 1
    return f"{value:.{decimals}f} {units[power]}"
