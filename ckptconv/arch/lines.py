"""Finds the lines of the keys in a TOML document, for error messages: the standard parser keeps no positions.

A light scan of text that `tomllib` has already accepted: table headers, keys at the start of a line, and strings and
brackets that span several lines. Keys inside an inline table are found under their line's key.
"""

from __future__ import annotations

import re

_KEY_PART = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)\s*""")
_PIECE = re.compile(
    r"""\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''.*?'''|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|#[^\n]*|[\[\]{}]|\n""", re.DOTALL
)

Path = tuple[str, ...]


class KeyLines:
    """The line, counted from 1, of every key in a TOML text."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        table: Path = ()
        for number, line in _statements(text):
            stripped = line.strip()
            if stripped.startswith("["):
                table = _path(stripped.lstrip("["))[0]
                self._lines.setdefault(table, number)
                continue
            path, rest = _path(stripped)
            if path and rest.startswith("="):
                for length in range(1, len(path) + 1):
                    self._lines.setdefault((*table, *path[:length]), number)

    def line(self, *path: str) -> int | None:
        """The line of a key, or of the nearest table around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return None


def _statements(text: str) -> list[tuple[int, str]]:
    """(line number, first line) of each statement: lines inside brackets or long strings start none."""
    starts, depth, number, begin = [(1, 0)], 0, 1, 0
    for piece in _PIECE.finditer(text):
        found = piece[0]
        if found in "[{":
            depth += 1
        elif found in "]}":
            depth -= 1
        number += found.count("\n")
        if found == "\n" and depth == 0:
            begin = piece.end()
            starts.append((number, begin))
    return [(line, _line(text, start)) for line, start in starts]


def _line(text: str, start: int) -> str:
    stop = text.find("\n", start)
    return text[start:] if stop < 0 else text[start:stop]


def _path(text: str) -> tuple[Path, str]:
    """A dotted key at the start of `text`, and what follows it."""
    parts: list[str] = []
    position = 0
    while found := _KEY_PART.match(text, position):
        part = found[1]
        parts.append(part[1:-1] if part[0] in "\"'" else part)
        position = found.end()
        if text[position : position + 1] != ".":
            break
        position += 1
    return tuple(parts), text[position:].lstrip()
