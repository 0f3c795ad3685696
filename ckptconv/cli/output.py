"""Writes to standard output and standard error.

Text from a file or from the command line has to pass `printable` first.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

from ckptconv.errors import FileAccessError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.spelling import Json

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_ASCII = str.maketrans({"├": "|", "│": "|", "└": "`", "─": "-", "→": "->", "–": "-", "×": "x", "…": "..."})
_ASCII |= str.maketrans(dict(zip("▁▂▃▄▅▆▇█━", "12345678=", strict=True)))


class OutputError(FileAccessError):
    """Standard output cannot be written."""

    code = "output"


def printable(text: str) -> str:
    r"""The text with everything that a terminal might act on escaped: ``\x1b``, ``\n``, ``\u202e``, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def style(text: str, *names: str) -> str:
    """The text in bold, dim or a colour, if standard output is a terminal that shows them."""
    if not text or not _wants_colour():
        return text
    codes = ";".join(_STYLES[name] for name in names)
    return f"\x1b[{codes}m{text}\x1b[0m"


def _wants_colour() -> bool:
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if sys.platform == "win32":  # the old console prints the escape sequences
        wanted = wanted and "WT_SESSION" in os.environ
    return wanted and sys.stdout is not None and sys.stdout.isatty()


def columns() -> int:
    """The terminal's width; 0 if standard output is not a terminal."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if on_terminal else 0


def emit(text: str) -> None:
    """Write to standard output, and flush. Raises OutputError; BrokenPipeError if nobody reads it any more."""
    if sys.stdout is None:  # the parent process closed it
        return
    try:
        left = memoryview(_encodable(text).encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
        while left:  # under PYTHONUNBUFFERED this is a raw file, whose write() may write only a part
            left = left[sys.stdout.buffer.write(left) :]
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence()
        raise OutputError(
            f"cannot write to standard output: {(error.strerror or str(error)).lower()}", hint="check where it leads to"
        ) from error


def _encodable(text: str) -> str:
    """The text, with ASCII in place of drawing characters that standard output's encoding lacks."""
    if text.isascii() or (sys.stdout.encoding or "").lower().startswith("utf"):
        return text
    return text.translate(_ASCII)


def emit_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output, and flush. Raises as `emit` does."""
    emit("".join(f"{line}\n" for line in lines))


def emit_json(document: Mapping[str, Json]) -> None:
    """Write the run's single JSON document, in ASCII, so that control characters and lone surrogates are escaped."""
    emit(json.dumps({"schema": 1, **document}, allow_nan=False) + "\n")


def complain(lines: Iterable[str]) -> None:
    """Write lines to standard error, if it can be written."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
    except OSError:  # there is nowhere left to report it
        return


def silence() -> None:
    """Discard what is left in standard output's buffer, which the interpreter would write again when it exits."""
    try:
        number = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
    except (OSError, AttributeError):
        return
