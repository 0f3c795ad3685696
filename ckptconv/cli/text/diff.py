"""What `diff` prints: the verdict, the edits as patterns, what changed most, all in few lines however much that is."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from math import isfinite, log10
from typing import TYPE_CHECKING

from ckptconv.checks.compare_metadata import Missing, typed
from ckptconv.checks.wording import scalar
from ckptconv.cli.output import printable, style
from ckptconv.cli.text.common import findings, section, table
from ckptconv.cli.text.diff_parts import (
    MOST_NAME,
    change_of,
    dtype_rows,
    edit_rows,
    figure,
    heat,
    one_sided_rows,
    share,
    short_name,
    spell_range,
    times,
    value_groups,
    verdict,
)
from ckptconv.cli.text.layers import changed_layers
from ckptconv.cli.text.metadata import shortened, spelled
from ckptconv.core.text import plural, shape_text
from ckptconv.edits.patterns import open_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.diff import Difference
    from ckptconv.checks.compare_metadata import MetadataChange
    from ckptconv.checks.compare_values import Values
    from ckptconv.cli.text.diff_parts import Group
    from ckptconv.core.edit import Edit
    from ckptconv.core.report import Finding

MOST_ROWS = 20
"""Rows of a table, or lines of a list, that are shown; --json has what is left out."""

MOST_LAYERS = 12
"""Layers that are listed, those with the largest changes."""

MOST_STRIP = 40
"""Cells of a heat strip; more layers share a cell."""

HEAT = "▁▂▃▄▅▆▇█"
"""A cell of a strip, by its heat."""

BAR = "━"
BAR_LENGTH = 16
"""A bar of heat grows by one for every half of a power of ten: from 1e-8 to a change of 1 and more."""


def page(result: Difference) -> list[str]:
    """Everything that changed, what matters most first."""
    word, rest = verdict(result)
    lines = [f"{style(word, 'green' if result.equal else 'red')}: {rest}"]
    lines += findings(result.told)
    lines += section("edits", _edits(result.edits))
    for code in ("removed", "added"):
        lines += section(code, _one_sided([f for f in result.findings if f.code == code]))
    lines += section("shapes", _list([f for f in result.findings if f.code == "shape-changed"]))
    lines += section("element types", _cut(table(dtype_rows(result))))
    groups, within = value_groups(result)
    lines += section("values", _values(groups, within))
    lines += section("layers", _layers(groups))
    lines += section("ties", _list([f for f in result.findings if f.code in ("tie-made", "tie-broken")]))
    lines += section("metadata", _metadata(result))
    return lines


def _cut(lines: list[str], total: int | None = None, most: int = MOST_ROWS) -> list[str]:
    left = (len(lines) if total is None else total) - most
    return [*lines[:most], f"… and {left:,} more; --json has all"] if left > 0 else lines


def _edits(edits: Sequence[Edit]) -> list[str]:
    rows = edit_rows(edits)
    wide = max((len(row[0]) for row in rows), default=0)
    return _cut(["  ".join([word.ljust(wide), *rest]).rstrip() for word, *rest in rows])


def _one_sided(found: Sequence[Finding]) -> list[str]:
    rows = one_sided_rows(found)
    return _cut(table(rows[: MOST_ROWS + 1]), len(rows))


def _list(found: Sequence[Finding]) -> list[str]:
    """The messages; those that differ only in the numbers in names are one line."""
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


def _values(groups: Sequence[Group], within: int) -> list[str]:
    shown = [_cells(group) for group in groups[: MOST_ROWS + 1]]
    lines = []
    if shown:
        heads = ["TENSOR", "", "DIFFER", "CHANGE", "MAX ABS", "MAX REL", "ULP", "HEAT", ""]
        drawn = table([heads, *shown], {2, 3, 4, 5, 6})
        lines = [style(drawn[0], "dim"), *_cut(drawn[1:], len(groups))]
    if within:
        lines.append(f"{plural(within, 'tensor')} within the tolerance")
    return lines


def _cells(group: Group) -> list[str]:
    known = group.known
    elements, differing = (sum(getattr(values, name) for values in known) for name in ("elements", "differing"))
    cells = [spell_range(group.names), times(len(group.names))]
    if not known:
        return [*cells, "bytes"]
    cells.append(share(differing, elements))
    changes = [values.change for values in known if values.change is not None]
    cells.append(figure(max(changes) if len(changes) == len(known) else None))
    for name in ("max_abs", "max_rel", "max_ulp"):
        figures = [getattr(values, name) for values in known if getattr(values, name) is not None]
        cells.append(figure(max(figures)) if figures else "-")
    return [*cells, _strip(group), remark(known)]


def remark(known: Sequence[Values]) -> str:
    """The note at a row's end: NaN, signs of zero, a rounding, or where the first difference is."""
    nan = sum(values.nan for values in known)
    if nan:
        return f"{nan:,} in being NaN"
    if all(values.signs == values.differing for values in known):
        return "sign of zero alone"
    values = known[0]
    if values.between is not None and len({one.between for one in known}) == 1:
        return f"rounded to {values.between}"
    if len(known) > 1 or values.first is None or values.first_values is None:
        return ""
    one, other = (scalar(value, 6) for value in values.first_values)
    return f"{shape_text(values.first)}: {one} → {other}"


def _strip(group: Group) -> str:
    """A cell for each tensor, in the order of their names; a cell for several shows the largest heat."""
    heats = [heat(change_of(values)) for values in group.values]
    cells = min(len(heats), MOST_STRIP)
    bounds = [len(heats) * i // cells for i in range(cells + 1)]
    return "".join(HEAT[max(heats[low:high])] for low, high in pairwise(bounds))


def _layers(groups: Sequence[Group]) -> list[str]:
    """A bar for each of the model's layers, the largest change first; nothing where every tensor has had a row of its
    own. Where the model stayed as it was, of what is beside it.
    """
    groups = [group for group in groups if not group.extra] or groups
    changed = [(name, values) for group in groups for name, values in zip(group.names, group.values, strict=True)]
    layers = changed_layers(changed)
    if len(layers) < 2 or len(changed) == len(groups):
        return []
    rows = [["LAYER", "TENSORS", "CHANGE", "HEAT", "LARGEST IN"]]
    for layer in layers[: MOST_LAYERS + 1]:
        change = figure(layer.change if isfinite(layer.change) else None)
        bar = _bar(layer.change).ljust(BAR_LENGTH)
        rows.append([short_name(layer.name) or "-", f"{layer.tensors:,}", change, bar, short_name(layer.largest)])
    head, *lines = table(rows, {1, 2})
    return [style(head, "dim"), *_cut(lines, len(layers), MOST_LAYERS)]


def _bar(change: float) -> str:
    if not isfinite(change):
        return BAR * BAR_LENGTH
    return BAR * (1 if change <= 0 else max(1, min(BAR_LENGTH, round(BAR_LENGTH + 2 * log10(change)))))


def _metadata(result: Difference) -> list[str]:
    lines = [f"{where}: {one} → {other}" for where, one, other in metadata_rows(result.metadata[: MOST_ROWS + 1])]
    return _cut(lines, len(result.metadata))


def metadata_rows(changes: Sequence[MetadataChange]) -> list[tuple[str, str, str]]:
    """Rows of a path and the two values there, with their types where those differ."""
    rows = []
    for change in changes:
        one, other = (
            "nothing" if isinstance(value, Missing) else shortened(spelled(value), value)
            for value in (change.expected, change.found)
        )
        rows.append((short_name(change.where), *typed(change.expected, change.found, one, other)))
    return rows
