"""Parse Darknet's .cfg, as Darknet does.

    [convolutional]     a section: a layer, but for the first, [net] or [network]
    filters=32          an option; of two with one name the first counts; a number ends where its digits do
    # …  ; …            comments, where a line starts with the mark

White space counts nowhere, so ``stride = 2`` is ``stride=2``.

Source: darknet/src/parser.c (`read_cfg`), option_list.c, utils.c (`strip`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError

if TYPE_CHECKING:
    from ckptconv.io.source import Source

MAX_CONFIG = 4 << 20
MAX_SECTIONS = 10_000
MAX_NUMBER = 1 << 31
NETWORKS = ("net", "network")
_NUMBER = re.compile(r"[+-]?\d{1,12}")
_BLANK = re.compile(r"[ \t\r]")


def bad(what: str) -> CorruptFileError:
    """The error for a .cfg that contradicts itself."""
    return CorruptFileError(f"the Darknet network is invalid: {what}", hint="name the .weights of another network")


@dataclass(frozen=True, slots=True)
class Section:
    """A layer's kind and options; `where` is what errors call it."""

    kind: str
    options: dict[str, str]
    where: str

    def number(self, key: str, default: int) -> int:
        """An option that is a number: the digits that it starts with, else 0. Raises CorruptFileError."""
        return _number(self.options[key], self.where, key) if key in self.options else default

    def count(self, key: str, default: int) -> int:
        """A number that has to be at least 1. Raises CorruptFileError."""
        number = self.number(key, default)
        if number < 1:
            raise bad(f"{self.where}: {key} is {number:,}")
        return number

    def flag(self, key: str) -> bool:
        """Whether an option is given and not 0."""
        return self.number(key, 0) != 0

    def numbers(self, key: str) -> list[int]:
        """An option that is a list of numbers. Raises CorruptFileError if it is missing."""
        if key not in self.options:
            raise bad(f"{self.where} has no {key}")
        return [_number(text, self.where, key) for text in self.options[key].split(",")]


def _number(text: str, where: str, key: str) -> int:
    found = _NUMBER.match(text)
    number = int(found[0]) if found else 0
    if abs(number) > MAX_NUMBER:
        raise bad(f"{where}: {key} is {number:,}")
    return number


def is_config(source: Source) -> bool:
    """Whether its first section is a network."""
    start = bytes(source.read_at(0, min(4096, source.size)))
    for line in start.decode("utf-8", "replace").splitlines():
        text = _BLANK.sub("", line)
        if text.startswith("["):
            return text[1:].split("]")[0].lower() in NETWORKS
        if text and text[0] not in "#;\ufeff":
            return False
    return False


def read_config(source: Source) -> list[Section]:
    """The sections, the network's first. Raises CorruptFileError, LimitError, UnsupportedError."""
    if source.size > MAX_CONFIG:
        raise LimitError(f"the .cfg has {source.size:,} bytes; the limit is {MAX_CONFIG:,}")
    sections: list[Section] = []
    for line in bytes(source.read_all(MAX_CONFIG)).decode("utf-8", "replace").splitlines():
        text = _BLANK.sub("", line)
        if not text or text[0] in "#;":
            continue
        if text[0] == "[":
            kind = text[1:].split("]")[0].lower()
            sections.append(Section(kind, {}, f"layer {len(sections) - 1} [{kind}]" if sections else f"[{kind}]"))
        elif sections and "=" in text:
            key, _, value = text.partition("=")
            sections[-1].options.setdefault(key, value)
        if len(sections) > MAX_SECTIONS:
            raise LimitError(f"the .cfg has more than {MAX_SECTIONS:,} layers")
    if not sections or sections[0].kind not in NETWORKS:
        raise UnsupportedError("the .cfg does not begin with [net]", hint="put the network's own .cfg beside it")
    return sections
