"""Options that several commands share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptconv.cli import completion, output
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

    from ckptconv.core.metadata import MetaNode

    _ParamType = click.ParamType[str]
else:
    _ParamType = click.ParamType  # older releases of click cannot subscript it

Command = TypeVar("Command", bound="Callable[..., Any]")

SETTINGS = {"max_content_width": 100}


def _show_help(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        output.emit(context.get_help() + "\n")
        context.exit()


def _show_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from ckptconv import __version__

        output.emit(f"ckptconv {__version__}\n")
        context.exit()


# click's own --help and --version print by themselves, and would not report a full disk
help_ = click.option(
    "-h", "--help", is_flag=True, is_eager=True, expose_value=False, callback=_show_help,
    help="Show this page and exit.",
)  # fmt: skip
version = click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the version and exit.",
)  # fmt: skip
json_ = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
# never read here: `Program` looks for it itself, before options are parsed, and passes it on as the context's obj
debug = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")


def from_(what: str) -> Callable[[Command], Command]:
    """``--from FORMAT``, the format of `what`."""
    return _format_option("--from", "from_format", f"Read {what} as this format, whatever the bytes say.")


def from_each(command: Command) -> Command:
    """``--from`` for both of two files, and ``--from-a`` and ``--from-b``, which outrank it."""
    for option in (
        _format_option("--from-b", "from_b", "Read only B as this format."),
        _format_option("--from-a", "from_a", "Read only A as this format."),
        from_("A and B"),
    ):
        command = option(command)
    return command


def _format_option(option: str, name: str, help: str) -> Callable[[Command], Command]:
    return click.option(
        option, name, metavar="FORMAT", shell_complete=completion.words(completion.read_formats), help=help
    )


arch = click.option(
    "--arch", metavar="A", shell_complete=completion.words(completion.architectures, or_files=True),
    help="The architecture: a library name (ckptconv arch list), SPEC.toml, another checkpoint, a Hugging Face "
    "config.json (built by transformers or diffusers), or Python code you trust (models.py:Net, pkg.mod:factory).",
)  # fmt: skip


def set_(help: str) -> Callable[[Command], Command]:
    """``--set K=V``, a param of an architecture. The library parses V by the param's type."""
    return click.option(
        "--set",
        "settings",
        metavar="K=V",
        type=_setting,
        multiple=True,
        callback=_refuse_repeated,
        help=help + " Repeatable.",
    )


def _setting(value: str) -> str:
    key, equals, _ = value.partition("=")
    if not key.strip() or not equals:
        raise click.BadParameter(f"{value!r} is not of the form K=V")
    return value


def _refuse_repeated(context: click.Context, option: click.Parameter, settings: tuple[str, ...]) -> tuple[str, ...]:
    if len({text.partition("=")[0].strip() for text in settings}) < len(settings):
        raise click.UsageError("--set sets the same param twice", context)
    return settings


class _PathText(_ParamType):
    """A path as it was typed. The library checks whether it exists."""

    name = "path"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            raise click.BadParameter("the path is empty", ctx, param)
        if value == "-":
            raise UsageError(
                "'-' is not supported: checkpoints are not read from or written to pipes", hint="give a file's path"
            )
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return completion.files(incomplete)


path_text = _PathText()


def pair(value: str) -> tuple[str, str]:
    """Parse ``KEY=VALUE``, both as strings."""
    key, equals, text = value.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{value!r} is not of the form KEY=VALUE")
    return key, text


def key_value(value: str) -> tuple[str, MetaNode]:
    """Parse ``K=V``, where V is JSON, or else a string."""
    key, equals, text = value.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{value!r} is not of the form K=V")
    try:
        return key, json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return key, text
    except RecursionError:
        raise click.BadParameter(f"the value of {key!r} is nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
