"""The entry point: finds the command, and turns every way to end into a line of text and an exit code.

    0    fine
    1    a check found something
    2    trouble: usage, unreadable, refused
    130  interrupted (Ctrl-C); 128 + the signal's number for other signals
    141  standard output is a pipe that nobody reads any more

A command's module is imported when the command runs: ``ckptconv --help`` imports none of them.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click

from ckptconv.cli import completion, options, output, trouble
from ckptconv.cli.groups import Group

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

COMMANDS = {
    "convert": "Convert a checkpoint into another format.",
    "inspect": "Show what is in a checkpoint, and whether it is safe.",
    "diff": "Show what changed between two checkpoints.",
    "verify": "Run two checkpoints and compare what they compute.",
    "validate": "Check whether a checkpoint fits its architecture, and say why not.",
    "arch": "List, show and infer architecture specs.",
    "formats": "List the formats, or show what one of them holds.",
}
"""Every command, with the first line of its help; its module in this package has the same name."""

EPILOG = """\b
Exit codes:
  0  fine
  1  a check found something
  2  trouble: usage, unreadable, refused
\b
Example:
  ckptconv inspect checkpoint.pth
  ckptconv convert checkpoint.pth model.safetensors
  ckptconv validate model.safetensors
"""


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C's asks the process to end. Everything cleans up as for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Program(Group):
    """The top-level group of commands. Each command returns its exit code."""

    summaries = COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return cast("click.Command", import_module(f"ckptconv.cli.{cmd_name}").command)

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run the command that `args` name, and exit."""
        completion.answer_shell(self)
        sys.exit(self._run(list(sys.argv[1:] if args is None else args)))

    def _run(self, args: list[str]) -> int:
        # these two are looked up before options are parsed, as they decide how usage errors are shown
        possible_options = args[: args.index("--")] if "--" in args else args
        debug, as_json = "--debug" in possible_options, "--json" in possible_options
        try:
            with self.make_context("ckptconv", list(args), obj=debug) as context:
                return int(self.invoke(context) or 0)
        except click.exceptions.Exit as end:
            return end.exit_code
        except BrokenPipeError:
            output.silence()
            return 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
        except KeyboardInterrupt as stop:
            trouble.report_stop(stop, as_json=as_json)
            return 128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT)
        except Exception as error:  # even for a bug, a user gets a sentence, and a script an exit code
            trouble.report(error, debug=debug, as_json=as_json)
            return 2


@click.group(
    cls=Program, epilog=EPILOG, context_settings=options.SETTINGS, no_args_is_help=False, add_help_option=False
)
@options.help_
@options.version
def program() -> None:
    """Any checkpoint in, any checkpoint out: convert, inspect and check files of model weights.

    Nothing from a file is ever run, and nothing is lost without your consent.
    """


def run() -> NoReturn:
    """The process's entry point."""
    # A checkpoint's headers are many small objects without cycles. The collector would walk all of them again and
    # again (40 % of the run time for 30,000 tensors), and find nothing; and the process is short.
    gc.disable()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' warnings are for programmers, not for users
    _open_standard_files()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # under nohup, SIGHUP stays ignored
            signal.signal(number, _terminate)
    try:
        program.main()
    finally:
        gc.freeze()  # spares the collection at the interpreter's end


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def _open_standard_files() -> None:
    """Open /dev/null for a closed stdin, stdout or stderr, lest the next file that is opened get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
