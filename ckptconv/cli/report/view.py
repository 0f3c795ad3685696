"""What the page shows, as plain rows of text: the template decides how, and escapes all of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from ckptconv.checks.histogram import BINS
from ckptconv.cli.output import printable
from ckptconv.cli.report.heatmap import HeatMap, heat_map
from ckptconv.cli.text.diff import metadata_rows, remark
from ckptconv.cli.text.diff_parts import (
    change_of,
    dtype_rows,
    edit_rows,
    figure,
    heat,
    one_sided_rows,
    share,
    short_name,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptconv.api.diff import Difference
    from ckptconv.checks.compare_values import Values
    from ckptconv.core.report import Finding

MOST_ROWS = 1000
"""Rows of the table of tensors: some 0.6 MB of page."""

MOST_LINES = 100
"""Rows of every other table."""

SPARK_HEIGHT = 16

_SHOWN = ("value-changed", "shape-changed", "dtype-changed", "removed", "added")
"""Findings that are rows of the table of tensors. Values come first, the largest change before all; else this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A tensor that is not the same on both sides."""

    name: str
    what: str
    kind: str
    differ: str = ""
    change: str = ""
    max_abs: str = ""
    max_rel: str = ""
    ulp: str = ""
    heat: int | None = None
    spark: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows that are shown, and how many are left out."""

    shown: Sequence[Sequence[str]]
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The whole page but for the plots. `spark`: the first bin of the table's small histograms, and how many.

    edits, one_sided, dtypes, ties, metadata: rows of their tables, in the template's order of columns.
    """

    expected: str
    found: str
    equal: bool
    word: str
    rest: str
    told: Sequence[str]
    edits: Rows
    one_sided: Rows
    dtypes: Rows
    ties: Rows
    metadata: Rows
    heat_map: HeatMap | None
    rows: Sequence[Row]
    rows_left: int
    spark: tuple[int, int]


def view(result: Difference) -> View:
    """The contents of the page for a difference."""
    word, rest = verdict(result)
    findings = _ordered(result)
    shown = findings[:MOST_ROWS]
    spark = _span(result.values.get(finding) for finding in shown)
    sides = [(code, row) for code in ("removed", "added") for row in one_sided_rows(_of(result, code))]
    return View(
        expected=printable(os.fspath(result.expected)),
        found=printable(os.fspath(result.found)),
        equal=result.equal,
        word=word,
        rest=rest,
        told=[_cut(finding.message) for finding in result.told[:MOST_LINES]],
        edits=_rows(edit_rows(result.edits)),
        one_sided=_rows([[code, *row] for code, row in sides]),
        dtypes=_rows(dtype_rows(result)),
        ties=_rows([[f.code.removeprefix("tie-"), _cut(f.message)] for f in _of(result, "tie-made", "tie-broken")]),
        metadata=Rows(
            shown=metadata_rows(result.metadata[:MOST_LINES]), left=max(0, len(result.metadata) - MOST_LINES)
        ),
        heat_map=heat_map(result),
        rows=[_row(finding, result.values.get(finding), spark) for finding in shown],
        rows_left=len(findings) - len(shown),
        spark=spark,
    )


def _of(result: Difference, *codes: str) -> list[Finding]:
    return [finding for finding in result.findings if finding.code in codes]


def _rows(rows: Sequence[Sequence[str]]) -> Rows:
    return Rows(shown=rows[:MOST_LINES], left=max(0, len(rows) - MOST_LINES))


def _cut(text: str, most: int = 400) -> str:
    return printable(text[:most]) + ("…" if len(text) > most else "")


def _ordered(result: Difference) -> list[Finding]:
    """The findings that are rows. A change of type is not a row of its own where the values are one as well."""
    changed = {finding.where for finding in result.findings if finding.code == "value-changed"}
    found = [f for f in _of(result, *_SHOWN) if f.code != "dtype-changed" or f.where not in changed]

    def place(finding: Finding) -> tuple[bool, int, float]:
        values = result.values.get(finding)
        change = inf if finding.code == "value-changed" and values is None else change_of(values) if values else 0.0
        return finding.severity != "error", _SHOWN.index(finding.code), -change

    return sorted(found, key=place)


def _row(finding: Finding, values: Values | None, spark: tuple[int, int]) -> Row:
    name, what = short_name(finding.where), _what(finding)
    if values is None:
        header = printable(" → ".join(filter(None, (finding.expected, finding.found))))
        return Row(name=name, what=what, kind=finding.code, note=header)
    return Row(
        name=name,
        what=what,
        kind=finding.code,
        differ=share(values.differing, values.elements),
        change=figure(values.change),
        max_abs=figure(values.max_abs),
        max_rel=figure(values.max_rel),
        ulp=figure(values.max_ulp),
        heat=heat(change_of(values)) if values.differing else None,
        spark=_spark(values.bins, spark),
        note=remark([values]) if values.differing else "every value kept",
    )


def _what(finding: Finding) -> str:
    if finding.code == "dtype-changed":
        return printable(f"{finding.expected} → {finding.found}")
    if finding.code == "value-changed":
        return "values" if finding.severity == "error" else "values, within the tolerance"
    return "shape" if finding.code == "shape-changed" else finding.code


def _span(shown: Iterable[Values | None]) -> tuple[int, int]:
    """The bins that any of the rows fills: the first, and how many."""
    filled = [i for values in shown if values is not None and values.bins for i, n in enumerate(values.bins) if n]
    return (min(filled), max(filled) + 1 - min(filled)) if filled else (0, BINS)


def _spark(bins: Sequence[int] | None, spark: tuple[int, int]) -> str:
    """A histogram as an SVG path, a column for each bin; "" where there is nothing to draw."""
    if not bins or not any(bins):
        return ""
    most, (start, _) = max(bins), spark
    heights = [(i - start, -(-SPARK_HEIGHT * n // most)) for i, n in enumerate(bins) if n]
    return "".join(f"M{x} {SPARK_HEIGHT}v-{height}h1v{height}z" for x, height in heights)
