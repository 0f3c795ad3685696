"""What pages have in common: numbers for people, sections, tables, findings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable, style
from ckptconv.core.text import cut, plural

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ckptconv.arch.spec import ParamValue
    from ckptconv.core.report import Finding

MOST_FINDINGS = 20
"""Findings that are listed for people; --json has all of them."""

MOST_PADDING = 60
"""Columns that a table pads a cell to at most, so that one long name does not push all others apart."""

MOST_VALUE = 60
MOST_ITEMS = 12
"""Characters of a param's value that are shown, and items of one that is a list."""

_WIDE = re.compile(
    "[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6"
    "\U0001f300-\U0001faff\U00020000-\U0003fffd]"
)
"""Characters that take two columns (Unicode's East Asian Width W and F, in blocks)."""

HUES = {"error": "red", "warning": "yellow", "info": "dim"}


def section(title: str, lines: Sequence[str]) -> list[str]:
    """A part of a page under its title; nothing where it has no lines."""
    return ["", style(title, "bold"), *(f"  {line}" for line in lines)] if lines else []


def size(nbytes: int) -> str:
    """A number of bytes, three digits of it: ``68.9 kB``."""
    if nbytes < 1000:
        return f"{nbytes} B"
    return f"{_three_digits(nbytes, ['kB', 'MB', 'GB', 'TB', 'PB', 'EB'])}"


def approximately(count: int) -> str:
    """A large count, three digits of it: ``124 M``."""
    return _three_digits(count, ["k", "M", "G", "T", "P", "E"])


def _three_digits(number: int, units: list[str]) -> str:
    value, left = number / 1000, list(units)
    while value >= 999.5 and len(left) > 1:
        value /= 1000
        left.pop(0)
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {left[0]}"


def value(param: ParamValue) -> str:
    """A param's value: words bare, long lists cut."""
    if isinstance(param, str) and (param == "" or not param.replace("_", "").replace("-", "").isalnum()):
        return printable(repr(cut(param, MOST_VALUE)))
    if isinstance(param, list):
        shown = ", ".join(value(item) for item in param[:MOST_ITEMS])
        return f"[{shown}]" if len(param) <= MOST_ITEMS else f"[{shown}, … {plural(len(param), 'item')}]"
    text = printable(str(param).lower() if isinstance(param, bool) else str(param))
    return cut(text, MOST_VALUE)


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows as lines with aligned columns, those in `right` to the right. Nothing is cut off."""
    columns = max((len(row) for row in rows), default=0)
    widths = [min(MOST_PADDING, max(width(row[i]) for row in rows if i < len(row))) for i in range(columns)]
    return ["  ".join(_cells(row, widths, right)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: list[int], right: Collection[int]) -> list[str]:
    cells = []
    for i, cell in enumerate(row):
        padding = " " * (widths[i] - width(cell))
        cells.append(padding + cell if i in right else cell + padding)
    return cells


def fields(rows: Sequence[tuple[str, str]], indent: str = "  ") -> list[str]:
    """Labels and texts, a line each, the texts aligned."""
    wide = max((len(label) for label, _ in rows), default=0)
    return [f"{indent}{style(label.ljust(wide), 'dim')}  {text}" for label, text in rows]


def findings(found: Sequence[Finding], label: str = "") -> list[str]:
    """A line for each finding, its severity first; `label` replaces the severity."""
    lines = [
        style(f"{label or finding.severity}:", HUES[finding.severity]) + f" {printable(finding.message)}"
        for finding in found[:MOST_FINDINGS]
    ]
    if len(found) > MOST_FINDINGS:
        lines.append(f"… and {len(found) - MOST_FINDINGS:,} more; --json lists all")
    return lines
