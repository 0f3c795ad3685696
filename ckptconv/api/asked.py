"""What was asked: the words of a command line that are about a network."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from os import fspath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ckptconv.api.open import PathText


def several(given: str | Collection[str]) -> tuple[str, ...]:
    """What was given where one or several may be; one is no sequence of its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def from_words(format: str | None, option: str = "--from") -> tuple[str, ...]:
    """How a command line says that what it reads is of this format."""
    return () if format is None else (option, format)


@dataclass(frozen=True, slots=True)
class Request:
    """A file whose network is to be known: where from and to, and what was said of the architecture.

    words: of the command line that asks, without options on the architecture; those of a conversion where empty.
    read_as: the format that the source is said to be of.
    """

    source: PathText
    target: PathText
    arch: str | None = None
    settings: Sequence[str] = ()
    inputs: Sequence[str] = ()
    words: tuple[str, ...] = ()
    read_as: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", several(self.settings))
        object.__setattr__(self, "inputs", several(self.inputs))

    def command(self, *more: str) -> str:
        """The command line that asked, with more options; to be pasted."""
        given = [part for text in self.settings for part in ("--set", text)]
        chosen = ["--arch", self.arch] if self.arch and "--arch" not in more else []
        words = self.words or ("convert", fspath(self.source), fspath(self.target), *from_words(self.read_as))
        return shlex.join(["ckptconv", *words, *chosen, *given, *more])
