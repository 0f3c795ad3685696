"""Reports errors: one line that names the file, indented details, and one line with a hint."""

from __future__ import annotations

import os
import traceback
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from ckptconv.cli.output import OutputError, complain, emit_json, printable
from ckptconv.errors import CkptconvError, FileAccessError, MemoryLimitError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckptconv.core.spelling import Json

HINTS = {
    "usage": "'ckptconv --help' lists the commands, 'ckptconv COMMAND --help' a command's options",
    "file-access": "check the path and its permissions",
    "unknown-format": "'ckptconv formats' lists what is read",
    "unsupported": "'ckptconv formats' lists what is read and written",
    "would-run-code": "do not load this file with pickle unless you trust whoever made it",
    "loss": "--allow-loss CODE agrees to a loss; --dry-run lists what would be lost",
    "edit": "'ckptconv inspect --list' shows the names; --dry-run, what becomes of them",
    "plugin": "update the plug-in, or remove it",
}
"""Hints for errors that bring none, by the error's code."""


MANY_FILES_HINTS = {
    "convert": 'one SRC and one DST; for many: for f in *.pth; do ckptconv convert "$f" "${f%.pth}.safetensors"; done'
}
"""Hints for commands that were given too many files."""


class BugError(CkptconvError):
    """An exception that nobody raised on purpose."""

    code = "bug"


class ThreadLimitError(CkptconvError):
    """The system refuses to start another thread."""

    code = "threads"


def unknown_word_error(kind: str, word: str, known: Collection[str], *, otherwise: str) -> UsageError:
    """The error for an unknown word; its hint is the most similar known one, or `otherwise`."""
    near = get_close_matches(word, known, n=1)
    return UsageError(f"there is no {kind} {word!r}", hint=f"did you mean {near[0]!r}?" if near else otherwise)


def as_ckptconv_error(error: Exception) -> CkptconvError:
    """Any exception as one of ours."""
    match error:
        case CkptconvError():
            return error
        case click.ClickException():
            return _usage_error(error)
        case MemoryError():
            return MemoryLimitError(
                "there is not enough memory for this", hint="close other programs, or use a larger machine"
            )
        case RuntimeError(args=("can't start new thread",)):
            return ThreadLimitError(
                "the system starts no further thread", hint="raise the limit (ulimit -u, or that of the container)"
            )
        case OSError(filename=path) if error.strerror:
            return FileAccessError(error.strerror.lower(), path=os.fsdecode(path) if path else None)
        case _:
            text = f"{type(error).__name__}: {error}".rstrip(": ")
            hint = "run it again with --debug, and report what that shows"
            return BugError(f"this is a bug in ckptconv: {text}", hint=hint)


def _usage_error(error: click.ClickException) -> UsageError:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f"'{context.command_path} --help' shows how it is used" if context else None
    if isinstance(error, click.NoSuchOption):
        message = f"there is no option {error.option_name!r}"
        hint = _option_hint(error.option_name, context) or hint
    elif message.startswith("Got unexpected extra argument") and context:
        hint = MANY_FILES_HINTS.get(context.info_name or "", hint)
    return UsageError(message[:1].lower() + message[1:], hint=hint)


def _option_hint(name: str, context: click.Context | None) -> str:
    """The hint for an unknown option; "" if there is nothing better than the general one."""
    if context is None:
        return ""
    if isinstance(context.command, click.Group) and name in ("--json", "--debug"):
        return f"it comes after the command: '{context.command_path} COMMAND {name}'"
    known = [option for param in context.command.params for option in param.opts]
    if near := get_close_matches(name, known, n=1):
        return f"did you mean {near[0]}?"
    if name.startswith("--") or isinstance(context.command, click.Group):
        return ""
    return f"'{context.command_path} --help' shows how it is used; a file called {name}… is given as ./{name}…"


def _hint_for(error: CkptconvError) -> str:
    """The error's own hint, or a general one."""
    return error.hint or HINTS.get(error.code, "run it again with --debug to see where this comes from")


def as_dict(error: CkptconvError) -> dict[str, Json]:
    """The error as ``--json`` prints it."""
    return {
        "code": error.code,
        "message": error.message,
        "path": None if error.path is None else os.fspath(error.path),
        "hint": _hint_for(error),
        "details": list(error.details),
    }


def report(error: Exception, *, debug: bool, as_json: bool = False) -> None:
    """Report an error on standard error, and with `as_json` on standard output as well."""
    known = as_ckptconv_error(error)
    where = "" if known.path is None else f"{printable(os.fspath(known.path))}: "
    lines = [f"ckptconv: error: {where}{printable(known.message)}"]
    lines += [f"  {printable(line)}" for line in known.details]
    lines.append(f"hint: {printable(_hint_for(known))}")
    if debug:
        lines = [*_traceback(error), *lines]
    complain(lines)
    if as_json and not isinstance(known, OutputError):
        _emit_error(as_dict(known))


def _traceback(error: Exception) -> list[str]:
    """The traceback without the error's details and hint, which follow it anyway."""
    trace = traceback.TracebackException.from_exception(error)
    trace.__notes__ = None
    return [printable(line) for line in "".join(trace.format()).splitlines()]


def report_stop(stop: KeyboardInterrupt, *, as_json: bool) -> None:
    """Report that a signal ended the run, and what became of the target, if there is one."""
    word = "interrupted" if type(stop) is KeyboardInterrupt else "terminated"
    message = "; ".join([word, *map(printable, getattr(stop, "__notes__", [])[:1])])
    complain([f"ckptconv: {message}"])
    if as_json:
        _emit_error({"code": word, "message": message, "path": None, "hint": None, "details": []})


def _emit_error(error: dict[str, Json]) -> None:
    try:
        emit_json({"error": error})
    except (OutputError, BrokenPipeError):  # then the exit code and standard error have to do
        return
