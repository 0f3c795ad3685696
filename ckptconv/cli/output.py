"""Where text leaves the process: standard output and standard error, and nothing raw from a file on either.

Everything that comes from a file or from the command line passes `printable` on its way out.
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
    """Standard output takes no more."""

    code = "output"


def printable(text: str) -> str:
    r"""The text with everything a terminal might obey spelled out: ``\x1b``, ``\n``, ``\u202e``, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def style(text: str, *names: str) -> str:
    """The text in bold, dim or a colour, where standard output is a terminal that wants them."""
    if not text or not _is_colourful():
        return text
    codes = ";".join(_STYLES[name] for name in names)
    return f"\x1b[{codes}m{text}\x1b[0m"


def _is_colourful() -> bool:
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if sys.platform == "win32":  # its old console shows the escapes as they are
        wanted = wanted and "WT_SESSION" in os.environ
    return wanted and sys.stdout is not None and sys.stdout.isatty()


def columns() -> int:
    """How wide the terminal is; 0 where standard output is none."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if on_terminal else 0


def emit(text: str) -> None:
    """Write to standard output, at once. Raises OutputError; BrokenPipeError where nobody reads it any more."""
    if sys.stdout is None:  # closed by whoever started us
        return
    try:
        left = memoryview(_spelled(text).encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
        while left:  # under PYTHONUNBUFFERED this is a raw file, whose write() may take a part and say nothing
            left = left[sys.stdout.buffer.write(left) :]
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence()
        raise OutputError(
            f"cannot write to standard output: {(error.strerror or str(error)).lower()}", hint="check where it leads to"
        ) from error


def _spelled(text: str) -> str:
    """The text, with plainer signs where standard output's encoding has no others."""
    if text.isascii() or (sys.stdout.encoding or "").lower().startswith("utf"):
        return text
    return text.translate(_ASCII)


def emit_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output, at once."""
    emit("".join(f"{line}\n" for line in lines))


def emit_json(document: Mapping[str, Json]) -> None:
    """Write the one JSON document of this run. ASCII: no control character and no lone surrogate gets through."""
    emit(json.dumps({"schema": 1, **document}, allow_nan=False) + "\n")


def complain(lines: Iterable[str]) -> None:
    """Write lines to standard error, as far as there is one."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
    except OSError:  # nobody is left to be told
        return


def silence() -> None:
    """Drop what standard output still has in its buffer, so that the interpreter does not try again at its end."""
    try:
        number = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
    except (OSError, AttributeError):
        return
