"""A group of commands: shows its help if no command is given, and has a hint for an unknown one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ckptconv.cli import trouble

if TYPE_CHECKING:
    from collections.abc import Mapping


class Group(click.Group):
    """A group of commands. `summaries` has the first line of each command's help, by name."""

    summaries: Mapping[str, str] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # resilient: a shell asks for completions
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        if args[:1] == ["help"]:  # like git and cargo
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.summaries and not ctx.resilient_parsing:
            hint = self._commands_hint(args[0])
            raise trouble.unknown_word_error("command", args[0], self.summaries, otherwise=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))

    def _commands_hint(self, given: str) -> str:
        commands = f"the commands are {', '.join(self.summaries)}"
        return f"a command comes before the file; {commands}" if os.path.exists(given) else commands
