"""``ckptconv formats``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptconv.cli import completion, options, output, trouble

if TYPE_CHECKING:
    from ckptconv.core.spelling import Json
    from ckptconv.formats.base import Format

EPILOG = """\b
Exit codes:
  0  fine
  2  there is no such format
\b
Examples:
  ckptconv formats
  ckptconv formats safetensors
"""


@click.command(epilog=EPILOG, context_settings=options.SETTINGS, add_help_option=False)
@click.argument("name", metavar="[NAME]", required=False, shell_complete=completion.words(completion.read_formats))
@options.json_
@options.debug
@options.help_
def command(name: str | None, as_json: bool) -> int:
    """List the formats that are read and written, including those of plug-ins.

    With a NAME: what that format holds. A plug-in that does not load is named below the table.
    """
    from ckptconv.cli.text import formats as text
    from ckptconv.formats import registry

    if name is not None:
        format = registry.by_name(name)
        if as_json:
            output.emit_json(_as_dict(format))
        else:
            output.emit_lines(text.one_format(format))
        return 0
    formats, (_, broken) = registry.all_formats(), registry.plugins()
    if as_json:
        errors: list[Json] = [trouble.as_dict(error) for error in broken]
        output.emit_json({"formats": [_as_dict(format) for format in formats], "broken": errors})
    else:
        output.emit_lines(text.formats(formats, broken))
    return 0


def _as_dict(format: Format) -> dict[str, Json]:
    return {
        "name": format.name,
        "summary": format.summary,
        "suffixes": list(format.suffixes),
        "read": True,
        "write": bool(format.writer),
        "dtypes": [dtype.name for dtype in format.holds.dtypes],
        "metadata": format.holds.metadata,
        "extras": format.holds.extras,
        "ties": format.holds.ties,
        "composites": format.holds.composites,
        "opaque": format.holds.opaque,
        "single": format.holds.single,
        "dialect": format.dialect or None,
        "extra": format.extra or None,
        "options": [{"name": row.name, "type": row.type, "summary": row.summary} for row in format.option_table()],
    }
