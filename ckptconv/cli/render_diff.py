"""What `diff` prints: the verdict, the edits as patterns, what changed most, all in few lines however much that is."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, log10
from typing import TYPE_CHECKING

from ckptconv.checks.compare_metadata import Missing, typed
from ckptconv.checks.wording import scalar, shape_text
from ckptconv.cli.output import printable, style
from ckptconv.cli.render import plural, size, table
from ckptconv.cli.render_metadata import shortened, spelled
from ckptconv.edits.patterns import group_names, open_numbers
from ckptconv.edits.stacks import spell_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api import Difference
    from ckptconv.checks.compare_values import Values
    from ckptconv.core.edit import Edit
    from ckptconv.core.report import Finding

MOST_ROWS = 20
"""Rows of a table, and lines of a list; --json has what is left out."""

MOST_NAME = 100
"""Characters of a name that are shown; names in files may be of any length."""

MOST_STRIP = 40
"""Cells of a heat strip; more layers share a cell."""

HEAT = "▁▂▃▄▅▆▇█"
"""From a relative change of under 1e-7 to one of 1 and more, a factor of ten each."""

_DIGITS = re.compile(r"\d+")
_WORDS = {"remove-layers": "layers removed", "insert-layers": "layers inserted"}
_COUNTED = (
    ("removed", "tensor removed", "tensors removed"),
    ("added", "tensor added", "tensors added"),
    ("shape-changed", "shape", "shapes"),
    ("dtype-changed", "element type", "element types"),
    ("value-changed", "tensor with other values", "tensors with other values"),
    ("tie-made", "tie made", "ties made"),
    ("tie-broken", "tie broken", "ties broken"),
    ("metadata-changed", "metadata change", "metadata changes"),
)


def page(result: Difference) -> list[str]:
    """Everything that changed, what matters most first."""
    lines = [_verdict(result)]
    lines += _section("edits", _edits(result.edits))
    for code in ("removed", "added"):
        lines += _section(code, _one_sided([f for f in result.findings if f.code == code]))
    lines += _section("shapes", _list([f for f in result.findings if f.code == "shape-changed"]))
    lines += _section("element types", _dtypes(result))
    lines += _section("values", _values(result))
    lines += _section("ties", _list([f for f in result.findings if f.code in ("tie-made", "tie-broken")]))
    lines += _section("metadata", _metadata(result))
    return lines


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", style(title, "bold"), *(f"  {line}" for line in lines)] if lines else []


def _verdict(result: Difference) -> str:
    within = sum(finding.severity != "error" for finding in result.findings)
    a, b = result.tensors
    amount = plural(a, "tensor") if a == b else f"{a:,} and {plural(b, 'tensor')}"
    if result.equal:
        if result.headers:
            return f"{style('equal headers', 'green')}: {amount}; values were not compared"
        note = f"; {within:,} of them differ within the tolerance" if within else ""
        return f"{style('equal', 'green')}: {amount}, {size(result.nbytes)}{note}"
    counts = Counter(finding.code for finding in result.findings if finding.severity == "error")
    edits = sum(edit.kind not in ("cast", "tie", "untie", "drop") for edit in result.edits)
    said = [plural(edits, "edit")] if edits else []
    said += [plural(counts[code], one, many) for code, one, many in _COUNTED if counts[code]]
    note = "; values were not compared" if result.headers else ""
    return f"{style('different', 'red')}: {', '.join(said)} (of {amount}){note}"


def _name(text: str) -> str:
    shown = printable(text[:MOST_NAME])
    return shown if len(text) <= MOST_NAME else f"{shown}…"


def _cut(lines: list[str], total: int | None = None) -> list[str]:
    left = (len(lines) if total is None else total) - MOST_ROWS
    return [*lines[:MOST_ROWS], f"… and {left:,} more; --json has all"] if left > 0 else lines


def _edits(edits: Sequence[Edit]) -> list[str]:
    rows = []
    for edit in edits:
        if edit.kind in ("cast", "drop", "tie", "untie"):  # told with the element types, tensors and ties
            continue
        sources, targets = _joined(edit.sources), _joined(edit.targets)
        text = f"{sources} → {targets}" if sources and targets and sources != targets else sources or targets
        rows.append([_WORDS.get(edit.kind, edit.kind), text + _detail(edit), _times(len(edit.steps))])
    return _cut(["  ".join([row[0].ljust(max(len(r[0]) for r in rows)), *row[1:]]).rstrip() for row in rows])


def _joined(names: Sequence[str]) -> str:
    """Several names as one: ``layers.{*}.[q + k + v].weight``."""
    if len(names) < 2:
        return "".join(map(_name, names))
    parts = [name.split(".") for name in names]
    least = min(map(len, parts)) - 1
    start = next((i for i in range(least) if len({row[i] for row in parts}) > 1), least)
    end = next((i for i in range(least - start) if len({row[-1 - i] for row in parts}) > 1), least - start)
    inner = " + ".join(".".join(row[start : len(row) - end]) for row in parts)
    return ".".join(map(_name, [*parts[0][:start], f"[{inner}]", *parts[0][len(parts[0]) - end :]]))


def _detail(edit: Edit) -> str:
    match edit.kind:
        case "transpose" if edit.details["axes"] != [1, 0]:
            return f" (axes {edit.details['axes']})"
        case "reshape":
            return f" (to {edit.details['shape']})"
        case "split" | "concat" if edit.details["axis"]:
            return f" (along dimension {edit.details['axis']})"
        case "split" | "concat" if "blocks" in edit.details:
            return f" (interleaved, {edit.details['blocks']} blocks)"
        case "permute":
            return f" (rows as {edit.details['shape']}, axes {edit.details['axes']})"
        case _:
            return ""


def _times(count: int) -> str:
    return f"×{count:,}" if count > 1 else ""


def _one_sided(found: Sequence[Finding]) -> list[str]:
    """Tensors that one side alone has, those of one pattern as one."""
    by_name = {finding.where: finding for finding in found}
    rows = []
    for pattern, names in group_names(by_name):
        headers = {by_name[name].expected or by_name[name].found or "" for name in names}
        header = min(headers) if len(headers) == 1 else f"{len(headers)} kinds"
        rows.append([_name(pattern), header, _times(len(names))])
    return _cut(table(rows[: MOST_ROWS + 1]), len(rows))


def _list(found: Sequence[Finding]) -> list[str]:
    """The messages, those that differ in numbers of names alone as one."""
    groups: dict[tuple[str, str | None, str | None], list[Finding]] = defaultdict(list)
    for finding in found:
        groups[open_numbers(finding.message), None, None].append(finding)
    lines = []
    for group in groups.values():
        text = _message(group[0])
        lines.append(text if len(group) == 1 else f"{text} (and {len(group) - 1:,} more like it)")
    return _cut(lines)


def _message(finding: Finding) -> str:
    text = finding.message
    shown = printable(text[: 3 * MOST_NAME])
    return shown if len(text) <= 3 * MOST_NAME else f"{shown}…"


def _dtypes(result: Difference) -> list[str]:
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for finding in result.findings:
        if finding.code == "dtype-changed":
            groups[finding.expected or "", finding.found or "", _cast(result.values.get(finding))].append(finding.where)
    rows = []
    for (expected, found, how), names in groups.items():
        patterns = [_name(pattern) for pattern, _ in group_names(names)]
        shown = ", ".join(patterns[:3]) + (" …" if len(patterns) > 3 else "")
        rows.append([f"{printable(expected)} → {printable(found)}", how, plural(len(names), "tensor"), shown])
    return _cut(table(rows))


def _cast(values: Values | None) -> str:
    if values is None:
        return ""
    if not values.differing:
        return "every value kept"
    return "rounding only" if values.cast else "values changed as well"


@dataclass(slots=True)
class _Row:
    """Tensors of one pattern whose values changed."""

    names: list[str]
    values: list[Values | None]

    @property
    def change(self) -> float:
        return max((_change(values) for values in self.values), default=0.0)


def _change(values: Values | None) -> float:
    """What rows are sorted by: the relative change; a NaN that came or went outweighs all."""
    if values is None or values.nan or values.change is None:
        return inf
    return values.change


def _values(result: Difference) -> list[str]:
    groups: dict[str, _Row] = {}
    within = 0
    for finding in result.findings:
        if finding.code != "value-changed":
            continue
        if finding.severity != "error":
            within += 1
            continue
        row = groups.setdefault(open_numbers(finding.where), _Row([], []))
        row.names.append(finding.where)
        row.values.append(result.values.get(finding))
    rows = sorted(groups.values(), key=lambda row: -row.change)
    shown = [_cells(row) for row in rows[: MOST_ROWS + 1]]
    lines = []
    if shown:
        heads = ["TENSOR", "", "DIFFER", "CHANGE", "MAX ABS", "MAX REL", "ULP", "HEAT", ""]
        drawn = table([heads, *shown], {2, 3, 4, 5, 6})
        lines = [style(drawn[0], "dim"), *_cut(drawn[1:], len(rows))]
    if within:
        lines.append(f"{plural(within, 'tensor')} within the tolerance")
    return lines


def _cells(row: _Row) -> list[str]:
    known = [values for values in row.values if values is not None]
    elements, differing = (sum(getattr(values, name) for values in known) for name in ("elements", "differing"))
    cells = [_range(row.names), _times(len(row.names))]
    if not known:
        return [*cells, "bytes"]
    cells.append(_share(differing, elements))
    cells.append(_figure(max(values.change for values in known) if None not in [v.change for v in known] else None))  # type: ignore[type-var]
    for name in ("max_abs", "max_rel", "max_ulp"):
        figures = [getattr(values, name) for values in known if getattr(values, name) is not None]
        cells.append(_figure(max(figures)) if figures else "-")
    return [*cells, _strip(row), _remark(known)]


def _share(count: int, total: int) -> str:
    if count < 1000:
        return f"{count:,}"
    return "all" if count == total else f"{100 * count / total:.3g}%"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and value < 1_000_000 else f"{value:.3g}"


def _remark(known: Sequence[Values]) -> str:
    nan = sum(values.nan for values in known)
    if nan:
        return f"{nan:,} in being NaN"
    if all(values.signs == values.differing for values in known):
        return "sign of zero alone"
    values = known[0]
    if len(known) > 1 or values.first is None or values.first_values is None:
        return ""
    one, other = (scalar(value, 6) for value in values.first_values)
    return f"{shape_text(values.first)}: {one} → {other}"


def _strip(row: _Row) -> str:
    """A cell for each tensor in the order of their names; many share one, which shows the largest."""
    heats = [_heat(_change(values)) for values in row.values]
    cells = min(len(heats), MOST_STRIP)
    bounds = [len(heats) * i // cells for i in range(cells + 1)]
    return "".join(HEAT[max(heats[low:high])] for low, high in pairwise(bounds))


def _heat(change: float) -> int:
    if not isfinite(change):
        return len(HEAT) - 1
    return 0 if change <= 0 else max(0, min(len(HEAT) - 1, int(log10(change) + len(HEAT) - 1)))


def _range(names: Sequence[str]) -> str:
    """Names of one skeleton as one: ``layers.{0-11}.weight``."""
    texts = _DIGITS.split(names[0])
    columns = list(zip(*(_DIGITS.findall(name) for name in names), strict=True))
    parts = [texts[0]]
    for column, text in zip(columns, texts[1:], strict=True):
        distinct = set(column)
        few = len(distinct) > 1 and max(map(len, distinct)) < 10
        numbers = spell_numbers(sorted(map(int, distinct))) if few else "…"
        parts.append((column[0] if len(distinct) == 1 else f"{{{numbers if len(numbers) <= 30 else '…'}}}") + text)
    return _name("".join(parts))


def _metadata(result: Difference) -> list[str]:
    lines = []
    for change in result.metadata[: MOST_ROWS + 1]:
        one, other = (
            "nothing" if isinstance(value, Missing) else shortened(spelled(value), value)
            for value in (change.expected, change.found)
        )
        one, other = typed(change.expected, change.found, one, other)
        lines.append(f"{_name(change.where)}: {one} → {other}")
    return _cut(lines, len(result.metadata))
