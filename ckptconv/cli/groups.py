"""A group of commands: its help where none was given, and what it says of one that there is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ckptconv.cli import trouble

if TYPE_CHECKING:
    from collections.abc import Mapping


class Group(click.Group):
    """Commands by name, with the first line of each one's help."""

    summaries: Mapping[str, str] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # a shell that asks what there is
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        if args[:1] == ["help"]:  # as git, cargo and others have it
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.summaries and not ctx.resilient_parsing:
            raise trouble.unknown("command", args[0], self.summaries, otherwise=self._known(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))

    def _known(self, given: str = "") -> str:
        known = f"the commands are {', '.join(self.summaries)}"
        return f"a command comes before the file; {known}" if os.path.exists(given) else known
