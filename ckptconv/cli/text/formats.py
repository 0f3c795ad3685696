"""What `formats` prints: the table, and what one of them holds."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from ckptconv.cli import output
from ckptconv.cli.output import printable, style
from ckptconv.cli.text.common import fields, table, width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.errors import PluginError
    from ckptconv.formats.base import Format
    from ckptconv.formats.options import OptionRow

LEAST = 20
"""Columns below which a text is not broken into lines."""

SUFFIXES = 36
"""Characters of the suffixes in the table of formats."""


def formats(all_formats: Sequence[Format], broken: Sequence[PluginError]) -> list[str]:
    """The table that `formats` prints; on a terminal too narrow for it, what each is stands below its row."""
    rows = [["NAME", "READ", "WRITE", "SUFFIXES", "SUMMARY"]]
    rows += [
        [printable(cell) for cell in (format.name, "yes", _yes(format.writer), _suffixes(format), format.summary)]
        for format in all_formats
    ]
    head, *lines = table(rows)
    if (room := output.columns()) and max(map(width, lines)) > room:
        head, *short = table([row[:-1] for row in rows])
        lines = [line for row, line in zip(rows[1:], short, strict=True) for line in (line, f"  {row[-1]}")]
    return [style(head, "bold"), *lines, *(f"warning: {printable(error.message)}" for error in broken)]


def _suffixes(format: Format) -> str:
    """As many as fit into the column."""
    shown: list[str] = []
    for suffix in format.suffixes:
        if len(" ".join([*shown, suffix])) > SUFFIXES:
            return " ".join([*shown, "…"])
        shown.append(suffix)
    return " ".join(shown) or "a folder"


def one_format(format: Format) -> list[str]:
    """What `formats NAME` prints."""
    holds = format.holds
    metadata = {
        "typed": "every value with its own type",
        "record": "readable strings, and a record of their types",
        "none": "none",
    }
    none = f"none: --to {format.name}" if format.writer else "none"
    rows = [("suffixes", " ".join(format.suffixes) or none), ("read", "yes"), ("write", _yes(format.writer))]
    kept = [
        ("metadata", metadata[holds.metadata]),
        ("extras", "tensors outside of the state_dict are kept" if holds.extras else "no tensors outside of the model"),
        ("ties", "names that share a tensor still do" if holds.ties else "each name gets its own copy"),
        *([("tensors", "one alone, without its name")] if holds.single else []),
        ("composites", "quantized and sparse tensors stay so" if holds.composites else "their parts stand alone"),
        ("opaque", "kept as data" if holds.opaque else "objects of unknown classes are not kept without consent"),
        ("dtypes", " ".join(dtype.name for dtype in holds.dtypes)),
    ]
    if format.dialect:
        from ckptconv.edits.translate import DIALECTS, GIVES

        whose, back = GIVES.get(format.dialect, "others'"), f"to-{format.dialect}"  # a plug-in may say anything
        again = f", and --translate {back} makes it of {whose}" if back in DIALECTS else ""
        rows.append(("names", f"its own; --translate {format.dialect} makes {whose} of them{again}"))
    rows += kept if format.writer else []
    if format.extra:
        rows.append(("needs", f"pip install 'ckptconv[{format.extra}]'"))
    lines = [
        f"{style(printable(format.name), 'bold')}: {printable(format.summary)}",
        *_paragraphs([(label, printable(text)) for label, text in rows]),
    ]
    own = [(f"-O {row.name}={_spelled(row)}", printable(row.summary)) for row in format.option_table()]
    return lines if not own else [*lines, "options of its own", *_paragraphs(own)]


def _spelled(row: OptionRow) -> str:
    return {"str": "FILE", "int": "N", "bool": "true"}.get(row.type, "VALUE")


def _yes(function: str) -> str:
    return "yes" if function else "no"


def _paragraphs(rows: Sequence[tuple[str, str]]) -> list[str]:
    """`fields` whose texts go on below themselves on a terminal that is too narrow for them."""
    lines: list[tuple[str, str]] = []
    room = output.columns() - 4 - max((len(label) for label, _ in rows), default=0)
    for label, text in rows:
        parts = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) if room >= LEAST else [text]
        lines += zip([label, *[""] * (len(parts) - 1)], parts, strict=True)
    return fields(lines)
