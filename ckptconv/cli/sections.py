"""A command with many options: its help lists them under headings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


class SectionedCommand(click.Command):
    """A command whose help lists the options in `sections`, ``{"Heading": "--first --second"}``; others come last."""

    def __init__(self, *args: Any, sections: Mapping[str, str], **others: Any) -> None:
        super().__init__(*args, **others)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        records = {option.opts[-1]: option.get_help_record(ctx) for option in options}
        rows = {name: record for name, record in records.items() if record is not None}
        width = max(len(option) for option, _ in rows.values())  # the same column in all sections
        sections = {heading: names.split() for heading, names in self.sections.items()}
        listed = {name for names in sections.values() for name in names}
        sections["Other options"] = [name for name in rows if name not in listed]
        for heading, names in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(rows[name][0].ljust(width), rows[name][1]) for name in names])
