"""What a call or a command line asks for, and the command lines that hints show: `Request`, and words of options."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ckptconv.api.open import PathText


def as_tuple(given: str | Collection[str]) -> tuple[str, ...]:
    """The given values as a tuple; a single string counts as one value, not as a sequence of its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def arch_text(arch: PathText | None) -> str | None:
    """The architecture as ``--arch`` takes it: a string, also for a path."""
    return None if arch is None else fspath(arch)


def format_words(format: str | None, option: str = "--from") -> tuple[str, ...]:
    """The words of a command line that set the format to read."""
    return () if format is None else (option, format)


def option_words(given: Mapping[str, object]) -> tuple[str, ...]:
    """Options as the words of a command line.

    True gives the flag alone; False and None give nothing; a collection repeats the option for each value.
    """
    words: list[str] = []
    for option, value in given.items():
        if isinstance(value, bool) or value is None:
            words += [option] if value else []
        else:
            values = [value] if isinstance(value, str | int) else cast("Collection[object]", value)
            for single in values:
                words += [option, str(single)]
    return tuple(words)


def pair_words(given: Mapping[str, object]) -> list[str]:
    """Each entry as ``K=V``: a string that is not JSON as it is, anything else as JSON."""
    return [f"{key}={_value_text(value)}" for key, value in given.items()]


def _value_text(value: object) -> str:
    try:
        if isinstance(value, str):
            json.loads(value)
        return json.dumps(value)
    except (ValueError, TypeError):  # a string that is not JSON; what JSON cannot say
        return str(value)
    except RecursionError:  # it is refused by `Order.check`
        return "…"


@dataclass(frozen=True, slots=True)
class Request:
    """A file, and what the caller said about its architecture.

    words:   the command line that asks, without its options about the architecture; hints are made from it.
    read_as: the format to read the source as; None: its bytes say.
    """

    source: PathText
    arch: str | None = None
    settings: Sequence[str] = ()
    inputs: Sequence[str] = ()
    words: tuple[str, ...] = ()
    read_as: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", as_tuple(self.settings))
        object.__setattr__(self, "inputs", as_tuple(self.inputs))

    @property
    def path(self) -> Path:
        """The path of the source."""
        return Path(self.source)

    def other_command(self, command: str, *more: str) -> str:
        """The command line of another command on the same file."""
        return shlex.join(["ckptconv", command, str(self.path), *format_words(self.read_as), *more])

    def validate_command(self) -> str:
        """The command line of `validate` on the same file, with the same options about its architecture."""
        return replace(self, words=("validate", str(self.path), *format_words(self.read_as))).command()

    def command_into(self, target: str) -> str:
        """The command line that asked, with another DST, whose suffix chooses the format."""
        command, source, _, *words = self.words
        while "--to" in words:
            at = words.index("--to")
            del words[at : at + 2]
        return replace(self, words=(command, source, target, *words)).command()

    def command(self, *more: str) -> str:
        """The command line that asked, with more options, as a user can paste it."""
        arch = ["--arch", self.arch] if self.arch and "--arch" not in more else []
        settings = [word for setting in self.settings for word in ("--set", setting)]
        return shlex.join(["ckptconv", *self.words, *arch, *settings, *more])
