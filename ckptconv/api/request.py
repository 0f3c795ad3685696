"""What was asked: the words of a command line that are about a network."""

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


def several(given: str | Collection[str]) -> tuple[str, ...]:
    """What was given where one or several may be; one is not a sequence of its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def name_of(arch: PathText | None) -> str | None:
    """An architecture as a command line names it; one that is a file may be given as a path."""
    return None if arch is None else fspath(arch)


def from_words(format: str | None, option: str = "--from") -> tuple[str, ...]:
    """How a command line says that what it reads is of this format."""
    return () if format is None else (option, format)


def words_of(given: Mapping[str, object]) -> tuple[str, ...]:
    """Options by name as a command line has them: a flag alone, one with a value, one with each of several."""
    words: list[str] = []
    for option, value in given.items():
        if isinstance(value, bool) or value is None:
            words += [option] if value else []
        else:
            each = [value] if isinstance(value, str | int) else cast("Collection[object]", value)
            words += [part for one in each for part in (option, str(one))]
    return tuple(words)


def pair_words(given: Mapping[str, object]) -> list[str]:
    """``K=V`` of each: a string as it is where that is not JSON, anything else as JSON."""
    return [f"{key}={_value_word(value)}" for key, value in given.items()]


def _value_word(value: object) -> str:
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
    """A file whose network is to be known, and what was said of its architecture.

    words: of the command line that asks, without options on the architecture.
    read_as: the format that the source is said to be of.
    """

    source: PathText
    arch: str | None = None
    settings: Sequence[str] = ()
    inputs: Sequence[str] = ()
    words: tuple[str, ...] = ()
    read_as: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", several(self.settings))
        object.__setattr__(self, "inputs", several(self.inputs))

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(self.source)

    def line(self, command: str, *more: str) -> str:
        """The line of another command on the same file; to be pasted."""
        return shlex.join(["ckptconv", command, str(self.path), *from_words(self.read_as), *more])

    def validation(self) -> str:
        """The line of `validate` on the same file, with what was said of its architecture; to be pasted."""
        return replace(self, words=("validate", str(self.path), *from_words(self.read_as))).command()

    def into(self, target: str) -> str:
        """The command line that asked, with another DST, whose suffix says what it becomes; to be pasted."""
        command, source, _, *words = self.words
        for at in [place for place, word in enumerate(words) if word == "--to"]:
            words[at : at + 2] = []
        return replace(self, words=(command, source, target, *words)).command()

    def command(self, *more: str) -> str:
        """The command line that asked, with more options; to be pasted."""
        given = [part for text in self.settings for part in ("--set", text)]
        chosen = ["--arch", self.arch] if self.arch and "--arch" not in more else []
        return shlex.join(["ckptconv", *self.words, *chosen, *given, *more])
