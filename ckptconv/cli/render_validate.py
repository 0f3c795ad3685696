"""What `validate` prints: the verdict, then what was found, by cause, in few lines however much that is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable, style
from ckptconv.cli.render import fields, plural
from ckptconv.cli.render_metadata import spelled
from ckptconv.edits.match import skeleton

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptconv.api import Validation
    from ckptconv.core.report import Finding, Severity

MOST_LINES = 36
"""Lines for all findings together; --json has what is left out."""

MOST_TEXT = 240
"""Characters of a line; names in files may be of any length."""

MOST_VALUE = 60
"""Characters of a param's value."""

_HUES = {"error": "red", "warning": "yellow", "info": "dim"}
_DIGITS = re.compile(r"\d+")
_WHY = {
    "arch note": "by the note in it",
    "config.json": "by the config.json beside it",
    "metadata": "by its metadata",
    "names": "by its names",
}


def page(result: Validation, *, titled: bool) -> list[str]:
    """The verdict, the params that go without saying, the findings; with `titled`, the file's name before all."""
    title = f"{style(printable(os.fspath(result.path)), 'bold')}: " if titled else ""
    return [title + _verdict(result), *fields(_more(result)), *findings(result.findings)]


def _verdict(result: Validation) -> str:
    said = style("valid", "green") if result.valid else style("invalid", "red")
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
    return f"{said}: {fits} {printable(result.arch)}{f' ({params})' if params else ''}{why}{end}"


def _param(result: Validation, name: str) -> str:
    text = spelled(result.params[name], MOST_VALUE)
    return printable(name) + " " + (text if len(text) <= MOST_VALUE else f"{text[:MOST_VALUE]}…")


def _more(result: Validation) -> list[tuple[str, str]]:
    """What else the tensors say, and what they cannot say and nothing else does."""
    if result.spec is None:
        return []
    spec, origins = result.spec, result.origins
    also = [
        _param(result, name)
        for name, param in spec.params.items()
        if name in result.params and not param.required and origins.get(name) != "default"
        if name == "variant" or result.params[name] != param.literal
    ]
    silent = [
        _param(result, name)
        for name in spec.params
        if origins.get(name) == "default" and name in result.params and name not in spec.asked
    ]
    rows = [("also", ", ".join(also)), ("assumed", f"{', '.join(silent)} (tensors do not say)")]
    return [row for row, shown in zip(rows, (also, silent), strict=True) if shown]
