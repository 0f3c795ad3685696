"""What the text and the page of a `diff` share: the verdict, edits as patterns, tensors grouped by pattern."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from math import inf, isfinite, log10
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable
from ckptconv.core.names import module_of
from ckptconv.core.report import errors_among
from ckptconv.core.text import plural, size
from ckptconv.edits.patterns import bracketed, group_names, open_numbers
from ckptconv.edits.stacks import spell_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.diff import Difference
    from ckptconv.checks.compare_values import Values
    from ckptconv.core.edit import Edit, Step
    from ckptconv.core.report import Finding

MOST_NAME = 100
"""Characters of a name that are shown; names in files may be of any length."""

MOST_FOLDS = 3
"""Folded batch norms that are shown; the rest are counted."""

HEATS = 8
"""Steps of heat: from a relative change of under 1e-7 to one of 1 and more, a factor of ten each."""

_DIGITS = re.compile(r"\d+")
_WORDS = {"remove-layers": "layers removed", "insert-layers": "layers inserted"}
_SHOWN_ELSEWHERE = ("cast", "drop", "tie", "untie")
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


def verdict(result: Difference) -> tuple[str, str]:
    """The verdict in a word or two, and the counts behind it."""
    within = sum(finding.severity != "error" for finding in result.values)
    a, b = result.tensors
    amount = plural(a, "tensor") if a == b else f"{a:,} and {plural(b, 'tensor')}"
    left = [what for what, is_left in (("values", result.headers), ("metadata", result.bare)) if is_left]
    note = f"; {' and '.join(left)} {'was' if left == ['metadata'] else 'were'} not compared" if left else ""
    if result.equal:
        if result.headers:
            return "equal headers", f"{amount}{note}"
        differ = "differs" if within == 1 else "differ"
        covered = f"; {within:,} of them {differ} within the tolerance" if within else ""
        return "equal", f"{amount}, {size(result.nbytes)}{covered}{note}"
    counts = Counter(finding.code for finding in errors_among(result.findings))
    edits = len(edit_rows(result.edits))
    parts = [plural(edits, "edit")] if edits else []
    parts += [plural(counts[code], singular, plural_form) for code, singular, plural_form in _COUNTED if counts[code]]
    return "different", f"{', '.join(parts)} (of {amount}){note}"


def short_name(text: str) -> str:
    """The name, printable, and cut after `MOST_NAME` characters."""
    shown = printable(text[:MOST_NAME])
    return shown if len(text) <= MOST_NAME else f"{shown}…"


def times(count: int) -> str:
    """``×12``, and nothing for one."""
    return f"×{count:,}" if count > 1 else ""


def edit_rows(edits: Sequence[Edit]) -> list[list[str]]:
    """Rows of an edit, its names, and how many times; without those that the other sections of the diff show."""
    rows: Counter[tuple[str, str]] = Counter()  # what goes by one pattern before and after another edit is one row
    folds = [step for edit in edits if edit.kind == "fold-batch-norm" for step in edit.steps]
    for edit in edits:
        if edit.kind in _SHOWN_ELSEWHERE or edit.kind == "fold-batch-norm":
            continue
        sources, targets = (bracketed(side, show=short_name) for side in (edit.sources, edit.targets))
        text = f"{sources} → {targets}" if sources and targets and sources != targets else sources or targets
        rows[_WORDS.get(edit.kind, edit.kind), text + _detail(edit)] += len(edit.steps)
    shown = [[word, text, times(count)] for (word, text), count in rows.items()]
    return [["fold", _folds_text(folds), times(len(folds))], *shown] if folds else shown


def _folds_text(steps: Sequence[Step]) -> str:
    """The first batch norms that were folded, each as its module and that of the layer."""
    texts = [
        f"{short_name(module_of(step.sources[-1]))} into {short_name(module_of(step.sources[0]))}"
        for step in steps[:MOST_FOLDS]
    ]
    return ", ".join(texts) + (", …" if len(steps) > MOST_FOLDS else "")


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


def one_sided_rows(found: Sequence[Finding]) -> list[list[str]]:
    """Tensors that only one side has, a row for each pattern: the pattern, element type and shape, how many, and what
    else is known if it is one.
    """
    by_name = {finding.where: finding for finding in found}
    rows = []
    for pattern, names in group_names(by_name):
        headers = {by_name[name].expected or by_name[name].found or "" for name in names}
        header = min(headers) if len(headers) == 1 else _several(headers)
        note = _note(by_name[names[0]], header) if len(names) == 1 else times(len(names))
        rows.append([short_name(pattern), header, note])
    return rows


def _note(finding: Finding, header: str) -> str:
    """``it shared the tensor of wte.weight``: what the message says after the tensor's header."""
    beginning = f"{finding.where}: {finding.code}, {header}; "
    return printable(finding.message.removeprefix(beginning)) if finding.message.startswith(beginning) else ""


def _several(headers: set[str]) -> str:
    """``F32, 2 shapes`` for headers such as ``F32 [2, 3]``."""
    (dtype, *others) = {header.split(" [")[0] for header in headers}
    return f"{len(headers):,} types and shapes" if others else f"{dtype}, {len(headers):,} shapes"


def dtype_rows(result: Difference) -> list[list[str]]:
    """Element types that changed, what that did to the values, how many tensors, and which."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for finding in result.findings:
        if finding.code == "dtype-changed":
            how = "" if result.headers else _cast_text(result.values.get(finding))
            groups[finding.expected or "", finding.found or "", how].append(finding.where)
    rows = []
    for (expected, found, how), names in groups.items():
        patterns = [short_name(pattern) for pattern, _ in group_names(names)]
        shown = ", ".join(patterns[:3]) + (" …" if len(patterns) > 3 else "")
        rows.append([f"{printable(expected)} → {printable(found)}", how, plural(len(names), "tensor"), shown])
    return rows


def _cast_text(values: Values | None) -> str:
    """What a change of the element type did to the values."""
    if values is None:
        return "values not compared"
    if not values.differing:
        return "every value kept"
    if not values.cast:
        return "values changed as well"
    how = "rounding, some values past the range" if values.overflowed else "rounding only"
    return how if values.between is None else f"{how}, by way of {values.between}"


@dataclass(slots=True)
class Group:
    """Tensors whose names differ in numbers alone and whose values changed, in the order of their names.

    extra: whether they are outside of the model.
    """

    names: list[str]
    values: list[Values | None]
    extra: bool = False

    @property
    def change(self) -> float:
        """The largest change among them."""
        return max((change_of(values) for values in self.values), default=0.0)

    @property
    def known(self) -> list[Values]:
        """The figures of those that have some."""
        return [values for values in self.values if values is not None]


def change_of(values: Values | None) -> float:
    """The relative change, by which rows are sorted; infinity where a NaN came or went, or where it is unknown."""
    if values is None or values.nan or values.change is None:
        return inf
    return values.change


def value_groups(result: Difference) -> tuple[list[Group], int]:
    """What changed beyond the tolerance, the model first, the largest change first; and how many tensors changed within
    it.
    """
    groups: dict[str, Group] = {}
    within = 0
    for finding in result.findings:
        if finding.code != "value-changed":
            continue
        if finding.severity != "error":
            within += 1
            continue
        group = groups.setdefault(open_numbers(finding.where), Group([], [], finding.where in result.extras))
        group.names.append(finding.where)
        group.values.append(result.values.get(finding))
    return sorted(groups.values(), key=lambda group: (group.extra, -group.change)), within


def heat(change: float) -> int:
    """A step of heat, 0 to HEATS - 1."""
    if not isfinite(change):
        return HEATS - 1
    return 0 if change <= 0 else max(0, min(HEATS - 1, int(log10(change) + HEATS - 1)))


def share(count: int, total: int) -> str:
    """A count of a total: the number itself below 1000, else in percent."""
    if count < 1000:
        return f"{count:,}"
    return "all" if count == total else f"{100 * count / total:.3g}%"


def figure(value: float | None) -> str:
    """A number to three digits; an int below a million in full; "-" for None."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and value < 1_000_000 else f"{value:.3g}"


def spell_range(names: Sequence[str]) -> str:
    """Names of one skeleton as one: ``layers.{0-11}.weight``."""
    texts = _DIGITS.split(names[0])
    columns = list(zip(*(_DIGITS.findall(name) for name in names), strict=True))
    parts = [texts[0]]
    for column, text in zip(columns, texts[1:], strict=True):
        distinct = set(column)
        few = len(distinct) > 1 and max(map(len, distinct)) < 10
        numbers = spell_numbers(sorted(map(int, distinct))) if few else "…"
        parts.append((column[0] if len(distinct) == 1 else f"{{{numbers if len(numbers) <= 30 else '…'}}}") + text)
    return short_name("".join(parts))
