"""A format's own options: what ``-O KEY=VALUE`` sets, declared as a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class OptionRow:
    """One option: its name on the command line, its type's name, its default, and what it does."""

    name: str
    type: str
    default: object
    summary: str


def option_rows(options: type) -> list[OptionRow]:
    """The options of a dataclass: a field ``external_data`` is the option ``external-data``.

    A field's type is written ``str``, ``int`` or ``bool``; its summary is ``metadata["summary"]``.
    """
    return [
        OptionRow(field.name.replace("_", "-"), str(field.type), field.default, field.metadata.get("summary", ""))
        for field in fields(options)
    ]


def parse_options(options: type, given: Mapping[str, str]) -> object:
    """An instance from strings. Raises UsageError for a name or a value that does not exist."""
    rows = {row.name: row for row in option_rows(options)}
    values: dict[str, Any] = {}
    for key, text in given.items():
        row = rows.get(key.replace("_", "-"))
        if row is None:
            near = get_close_matches(key, rows, 1)
            known = ", ".join(rows)
            raise UsageError(
                f"there is no option {key!r}", hint=f"did you mean {near[0]!r}?" if near else f"known: {known}"
            )
        values[row.name.replace("-", "_")] = _value(row, text)
    return options(**values)


def _value(row: OptionRow, text: str) -> object:
    if row.type == "bool":
        if text.lower() not in (*_TRUE, *_FALSE):
            raise UsageError(f"the option {row.name!r} is true or false, not {text!r}", hint=f"-O {row.name}=true")
        return text.lower() in _TRUE
    if row.type == "int":
        try:
            return int(text)
        except ValueError:
            raise UsageError(
                f"the option {row.name!r} is a number, not {text!r}", hint=f"-O {row.name}={row.default}"
            ) from None
    return text
