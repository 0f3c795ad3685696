"""Results as text: numbers for people, tables, findings, what `convert` and `formats` print."""

from __future__ import annotations

import os
import re
import textwrap
from typing import TYPE_CHECKING

from ckptconv.cli import output
from ckptconv.cli.output import printable, style
from ckptconv.core.text import cut, plural

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ckptconv.api.converting.conversion import Conversion
    from ckptconv.api.converting.plan import Move
    from ckptconv.arch.spec import ParamValue
    from ckptconv.core.report import Finding
    from ckptconv.errors import PluginError
    from ckptconv.formats.base import Format
    from ckptconv.formats.options import OptionRow

MOST_FINDINGS = 20
"""Findings that are listed for people; --json has all of them."""

MOST_PADDING = 60
"""Columns that a table pads a cell to at most, so that one long name does not push all others apart."""

LEAST = 20
"""Columns below which a text is not broken into lines."""

SUFFIXES = 36
"""Characters of the suffixes in the table of formats."""

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


def _paragraphs(rows: Sequence[tuple[str, str]]) -> list[str]:
    """`fields` whose texts go on below themselves on a terminal that is too narrow for them."""
    lines: list[tuple[str, str]] = []
    room = output.columns() - 4 - max((len(label) for label, _ in rows), default=0)
    for label, text in rows:
        parts = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) if room >= LEAST else [text]
        lines += zip([label, *[""] * (len(parts) - 1)], parts, strict=True)
    return fields(lines)


def findings(found: Sequence[Finding], label: str = "") -> list[str]:
    """A line for each finding, its severity first; `label` replaces the severity."""
    lines = [
        style(f"{label or finding.severity}:", HUES[finding.severity]) + f" {printable(finding.message)}"
        for finding in found[:MOST_FINDINGS]
    ]
    if len(found) > MOST_FINDINGS:
        lines.append(f"… and {len(found) - MOST_FINDINGS:,} more; --json lists all")
    return lines


def conversion(result: Conversion, *, dry_run: bool) -> list[str]:
    """What `convert` prints."""
    source, target = (printable(os.fspath(path)) for path in (result.source, result.target))
    amount = f"{plural(result.tensors, 'tensor')}, {size(result.nbytes)}"
    if dry_run:
        amount = f"would be {result.target_format}, {amount}"
    lines = [f"{source} → {style(target, 'bold')}: {amount}"]
    lines += _plan(result.plan)
    label = "would be lost" if dry_run else "lost"
    lines += findings(result.losses, label)
    lines += findings(result.findings)
    if result.digest is not None:
        lines.append(style(f"digest: {printable(result.digest)}", "dim"))
    if dry_run:
        codes = " ".join(f"--allow-loss {code}" for code in dict.fromkeys(loss.code for loss in result.losses))
        lines.append("nothing was written" + (f"; to convert, agree with {codes}" if codes else ""))
    return lines


def _plan(moves: Sequence[Move]) -> list[str]:
    """``a + b → c``, or the name alone where it stays; type, shape, and the file where there are several."""
    several = len({move.file for move in moves if move.file is not None}) > 1
    return table([_move(move, several=several) for move in moves])


def _move(move: Move, *, several: bool) -> list[str]:
    sources = " + ".join(map(printable, (*move.sources, *move.merged))) or "(computed)"
    name = "left out" if move.target is None else printable(move.target)
    row = [
        f"  {sources}" if move.sources == (move.target,) else f"  {sources} → {name}",
        move.dtype,
        str(list(move.shape)),
    ]
    return [*row, printable(move.file or "")] if several else row


def formats(all_formats: Sequence[Format], broken: Sequence[PluginError]) -> list[str]:
    """The table that `formats` prints; on a terminal too narrow for it, what each is stands below its row."""
    rows = [["NAME", "READ", "WRITE", "SUFFIXES", "SUMMARY"]]
    rows += [
        [printable(cell) for cell in (one.name, "yes", _yes(one.writer), _suffixes(one), one.summary)]
        for one in all_formats
    ]
    head, *lines = table(rows)
    if (room := output.columns()) and max(map(width, lines)) > room:
        head, *short = table([row[:-1] for row in rows])
        lines = [line for row, line in zip(rows[1:], short, strict=True) for line in (line, f"  {row[-1]}")]
    return [style(head, "bold"), *lines, *(f"warning: {printable(error.message)}" for error in broken)]


def _suffixes(one: Format) -> str:
    """As many as fit into the column."""
    shown: list[str] = []
    for suffix in one.suffixes:
        if len(" ".join([*shown, suffix])) > SUFFIXES:
            return " ".join([*shown, "…"])
        shown.append(suffix)
    return " ".join(shown) or "a folder"


def one_format(one: Format) -> list[str]:
    """What `formats NAME` prints."""
    holds = one.holds
    metadata = {
        "typed": "every value with its own type",
        "record": "readable strings, and a record of their types",
        "none": "none",
    }
    none = f"none: --to {one.name}" if one.writer else "none"
    rows = [("suffixes", " ".join(one.suffixes) or none), ("read", "yes"), ("write", _yes(one.writer))]
    kept = [
        ("metadata", metadata[holds.metadata]),
        ("extras", "tensors outside of the state_dict are kept" if holds.extras else "no tensors outside of the model"),
        ("ties", "names that share a tensor still do" if holds.ties else "each name gets its own copy"),
        *([("tensors", "one alone, without its name")] if holds.single else []),
        ("composites", "quantized and sparse tensors stay so" if holds.composites else "their parts stand alone"),
        ("opaque", "kept as data" if holds.opaque else "objects of unknown classes are not kept without consent"),
        ("dtypes", " ".join(dtype.name for dtype in holds.dtypes)),
    ]
    if one.dialect:
        from ckptconv.edits.translate import DIALECTS, GIVES

        whose, back = GIVES.get(one.dialect, "others'"), f"to-{one.dialect}"  # a plug-in may say anything
        again = f", and --translate {back} makes it of {whose}" if back in DIALECTS else ""
        rows.append(("names", f"its own; --translate {one.dialect} makes {whose} of them{again}"))
    rows += kept if one.writer else []
    if one.extra:
        rows.append(("needs", f"pip install 'ckptconv[{one.extra}]'"))
    lines = [
        f"{style(printable(one.name), 'bold')}: {printable(one.summary)}",
        *_paragraphs([(label, printable(text)) for label, text in rows]),
    ]
    own = [(f"-O {row.name}={_spelled(row)}", printable(row.summary)) for row in one.option_table()]
    return lines if not own else [*lines, "options of its own", *_paragraphs(own)]


def _spelled(row: OptionRow) -> str:
    return {"str": "FILE", "int": "N", "bool": "true"}.get(row.type, "VALUE")


def _yes(function: str) -> str:
    return "yes" if function else "no"
