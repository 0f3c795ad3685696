"""What `validate` prints: the verdict, then what was found, by cause, in few lines however much that is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.api.fitting.own_configuration import EVIDENCE
from ckptconv.arch.statements import CONFIG, PARAMS
from ckptconv.cli.output import printable, style
from ckptconv.cli.text.common import HUES, fields, value
from ckptconv.core.text import plural
from ckptconv.edits.match import skeleton

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptconv.api.fitting.compare import Validation
    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.spec import Spec
    from ckptconv.core.report import Finding, Severity

MOST_LINES = 36
"""Lines for all findings together; --json has what is left out."""

MOST_TEXT = 240
"""Characters of a line; names in files may be of any length."""

MOST_DIGITS = 18
"""Digits of a number that becomes part of a range; Python refuses to read very long ones."""

_DIGITS = re.compile(r"\d+")
_WHY = {
    "arch note": "by the note in it",
    CONFIG: f"by the {CONFIG} beside it",
    PARAMS: f"by the {PARAMS} beside it",
    "metadata": "by its metadata",
    "names": "by its names",
    EVIDENCE: "by the configuration in it",
}


def page(result: Validation, *, titled: bool) -> list[str]:
    """The verdict, further params, the findings; with `titled`, the file's name in front."""
    title = f"{style(printable(os.fspath(result.path)), 'bold')}: " if titled else ""
    return [title + _verdict(result), *fields(_other_params(result)), *findings(result.findings)]


def _verdict(result: Validation) -> str:
    verdict = style("valid", "green") if result.valid else style("invalid", "red")
    fits = "fits" if result.valid else "does not fit"
    names = result.spec.required if result.spec else list(result.params)
    params = ", ".join(_param(result, name) for name in names if name in result.params)
    why = f", {_WHY[result.evidence]}" if result.evidence in _WHY else ""
    counts = [
        plural(count, word)
        for word in ("error", "warning")
        if (count := sum(finding.severity == word for finding in result.findings))
    ]
    end = f": {', '.join(counts)}" if counts else ""
    return f"{verdict}: {fits} {printable(result.arch)}{f' ({params})' if params else ''}{why}{end}"


def _param(result: Validation, name: str) -> str:
    return f"{printable(name)} {value(result.params[name])}"


def _other_params(result: Validation) -> list[tuple[str, str]]:
    """The optional params that the tensors determine, and those that had to be assumed."""
    if result.spec is None:
        return []
    spec, assumed = result.spec, result.assumed
    asked = {name for formula in _formulas(spec) for name in formula.names}
    other = [
        _param(result, name)
        for name, param in spec.params.items()
        if name in result.params and not param.required and name not in assumed
        if name == "variant" or result.params[name] not in (param.literal, [])  # lists of a part that is not there
    ]
    undetermined = [
        _param(result, name) for name in spec.params if name in assumed and name in result.params and name not in asked
    ]
    rows = [("also", ", ".join(other)), ("assumed", f"{', '.join(undetermined)} (tensors do not say)")]
    return [row for row, shown in zip(rows, (other, undetermined), strict=True) if shown]


def _formulas(spec: Spec) -> Iterator[Formula]:
    """The formulas that decide which tensors there are, and their shapes."""
    for rule in spec.rules:
        yield from rule.formulas
    for loop in spec.loops.values():
        yield from loop.formulas
    yield from spec.lets.values()
    yield from (entry.formula for entry in spec.constraints)


@dataclass(slots=True)
class _Cause:
    """The findings of one code: one entry for those that differ only in their numbers; the first `shown` are shown."""

    severity: Severity
    code: str
    entries: list[list[Finding]] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        count = sum(map(len, self.entries))
        head = style(f"{self.severity}:", HUES[self.severity]) + f" {printable(self.code)}"
        head += f" ({count:,})" if count > 1 else ""
        return [head, *(line for text in self.texts for line in text)]


_EXPLAINS_THE_REST = frozenset(["architecture", "dialect"])
"""Findings of these codes explain the other errors: missing, surplus and similar names say nothing more then."""


def findings(found: Sequence[Finding]) -> list[str]:
    """Findings by code, in the order that they come in; every code gets its lines before one gets all of them.

    Errors that one of `_EXPLAINS_THE_REST` explains are only counted.
    """
    if all(finding.code not in _EXPLAINS_THE_REST for finding in found):
        return _listed(found)
    shown = [finding for finding in found if finding.severity != "error" or finding.code in _EXPLAINS_THE_REST]
    hidden = len(found) - len(shown)
    return [*_listed(shown), *([f"… and {plural(hidden, 'error')} that it explains; --json has all"] if hidden else [])]


def _listed(found: Sequence[Finding]) -> list[str]:
    causes = _causes(found)
    left, waiting = MOST_LINES, list(causes)
    while waiting:
        again = []
        for cause in waiting:
            position = len(cause.texts)
            text = _entry(cause.entries[position])
            cost = len(text) + (position == 0)
            if cost <= left:
                left -= cost
                cause.texts.append(text)
                if position + 1 < len(cause.entries):
                    again.append(cause)
        waiting = again
    lines = [line for cause in causes if cause.texts for line in cause.lines]
    hidden = sum(len(entry) for cause in causes for entry in cause.entries[len(cause.texts) :])
    return [*lines, f"… and {hidden:,} more; --json has all"] if hidden else lines


def _causes(found: Iterable[Finding]) -> list[_Cause]:
    causes: dict[str, _Cause] = {}
    entries: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in found:
        cause = causes.setdefault(finding.code, _Cause(finding.severity, finding.code))
        key = finding.code, skeleton(finding.where), skeleton(finding.message)
        if key not in entries:
            entries[key] = []
            cause.entries.append(entries[key])
        entries[key].append(finding)
    return list(causes.values())


def _entry(alike: Sequence[Finding]) -> list[str]:
    """The lines for findings that are alike: what is wrong, what was expected and found, and a hint."""
    first = alike[0]
    lines = [f"  {_shortened(_message(alike))}"]
    if any(text is not None and text not in first.message for text in (first.expected, first.found)):
        wanted, there = (_shortened(text or "nothing") for text in (first.expected, first.found))
        lines.append(f"    expected {wanted}, found {there}")
    if first.hint is not None:
        likewise = "  # likewise for the others" if len(alike) > 1 else ""
        lines.append(style(f"    hint: {_shortened(first.hint)}{likewise}", "dim"))
    return lines


def _message(alike: Sequence[Finding]) -> str:
    first = alike[0]
    if len(alike) == 1:
        return first.message
    if not first.where or first.where not in first.message:
        return f"{first.message} (and {len(alike) - 1:,} more like it)"
    name = _range([finding.where for finding in alike])
    rest = {finding.message.replace(finding.where, "") for finding in alike}
    counted = first.message.replace(first.where, f"{name} ×{len(alike):,}", 1).replace(first.where, name)
    return counted + (" (the first of them)" if len(rest) > 1 else "")


def _range(names: Sequence[str]) -> str:
    """Names of one skeleton as one: ``layers.0–31.weight``, or ``layers.{0,4}.weight`` where few are far apart."""
    texts = _DIGITS.split(names[0])
    columns = zip(*(_DIGITS.findall(name) for name in names), strict=True)
    return texts[0] + "".join(_numbers(set(digits)) + text for digits, text in zip(columns, texts[1:], strict=True))


def _numbers(digits: set[str]) -> str:
    if len(digits) == 1 or max(map(len, digits)) > MOST_DIGITS:
        return min(digits) if len(digits) == 1 else "…"
    numbers = {int(text) for text in digits}
    low, high = min(numbers), max(numbers)
    if len(numbers) <= 4 and high - low >= len(numbers):
        return f"{{{','.join(map(str, sorted(numbers)))}}}"
    return f"{low}–{high}"


def _shortened(text: str) -> str:
    shown = printable(text[:MOST_TEXT])
    return shown if len(text) <= MOST_TEXT else f"{shown}… ({plural(len(text), 'character')})"
