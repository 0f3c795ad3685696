"""What all pages share: readable numbers, sections, tables, findings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable, style
from ckptconv.core.text import cut, plural

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ckptconv.arch.spec import ParamValue
    from ckptconv.core.report import Finding

MAX_FINDINGS = 20
"""The most findings to list; --json has all."""

MAX_PADDING = 60
"""The most columns that a table pads a cell to, so that one long name does not widen all rows."""

MAX_VALUE_LENGTH = 60
MAX_ITEMS = 12
"""The most characters of a param's value to show, and the most items of a list."""

_DOUBLE_WIDTH = re.compile(
    "[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6"
    "\U0001f300-\U0001faff\U00020000-\U0003fffd]"
)
"""Characters that take two columns (Unicode's East Asian Width W and F, in blocks)."""

HUES = {"error": "red", "warning": "yellow", "info": "dim"}


def section(title: str, lines: Sequence[str]) -> list[str]:
    """A titled part of a page; nothing if it has no lines."""
    return ["", style(title, "bold"), *(f"  {line}" for line in lines)] if lines else []


def value(param: ParamValue) -> str:
    """A param's value: words without quotes, long lists cut."""
    if isinstance(param, str) and (param == "" or not param.replace("_", "").replace("-", "").isalnum()):
        return printable(repr(cut(param, MAX_VALUE_LENGTH)))
    if isinstance(param, list):
        shown = ", ".join(value(item) for item in param[:MAX_ITEMS])
        return f"[{shown}]" if len(param) <= MAX_ITEMS else f"[{shown}, … {plural(len(param), 'item')}]"
    text = printable(str(param).lower() if isinstance(param, bool) else str(param))
    return cut(text, MAX_VALUE_LENGTH)


def width(text: str) -> int:
    """The number of columns that a text takes on a terminal."""
    return len(text) if text.isascii() else len(text) + len(_DOUBLE_WIDTH.findall(text))


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows as lines with aligned columns; the columns in `right` are aligned to the right. Nothing is cut."""
    columns = max((len(row) for row in rows), default=0)
    widths = [min(MAX_PADDING, max(width(row[i]) for row in rows if i < len(row))) for i in range(columns)]
    return ["  ".join(_cells(row, widths, right)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: list[int], right: Collection[int]) -> list[str]:
    cells = []
    for i, cell in enumerate(row):
        padding = " " * (widths[i] - width(cell))
        cells.append(padding + cell if i in right else cell + padding)
    return cells


def fields(rows: Sequence[tuple[str, str]], indent: str = "  ") -> list[str]:
    """A line for each label and its text, with the texts aligned."""
    label_width = max((len(label) for label, _ in rows), default=0)
    return [f"{indent}{style(label.ljust(label_width), 'dim')}  {text}" for label, text in rows]


def findings(found: Sequence[Finding], label: str = "") -> list[str]:
    """A line for each finding, which begins with its severity, or with `label` instead."""
    lines = [
        style(f"{label or finding.severity}:", HUES[finding.severity]) + f" {printable(finding.message)}"
        for finding in found[:MAX_FINDINGS]
    ]
    if len(found) > MAX_FINDINGS:
        lines.append(f"… and {len(found) - MAX_FINDINGS:,} more; --json lists all")
    return lines
