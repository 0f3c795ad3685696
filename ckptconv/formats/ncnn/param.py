"""Parse ncnn's .param, a text.

    7767517                                     the magic number
    LAYERS BLOBS                                how many there are; ncnn ignores what follows these layers
    TYPE NAME INPUTS OUTPUTS blob … KEY=VALUE … a layer, on a line of its own

A key is a number whose meaning depends on the type. Only whole numbers are used here; a list is said as
``-23303=2,0.1,0.2`` for the key 3, or as ``3=0.1,0.2``.

Sources: ncnn/src/net.cpp (`Net::load_param`), paramdict.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ckptconv.errors import CUT_SHORT, CorruptFileError, LimitError, UnsupportedError

if TYPE_CHECKING:
    from ckptconv.io.source import Source

MAGIC = b"7767517"
MAX_PARAM = 64 << 20
MAX_NUMBER = (1 << 31) - 1
LIST = 23300
"""A list's key is stored as minus itself, minus this."""

_NUMBER = re.compile(r"[+-]?\d{1,10}")
_OPTION = re.compile(r'([+-]?\d{1,10})=("[^"]*"?|\S*)\s*')


def bad(what: str) -> CorruptFileError:
    """The error for a graph that contradicts itself."""
    return CorruptFileError(f"the ncnn graph is invalid: {what}", hint="copy it again, with its .bin")


@dataclass(frozen=True)
class Layer:
    """A layer's type and name, and the text of its options."""

    type: str
    name: str
    text: str

    @property
    def where(self) -> str:
        """What errors call it."""
        return f"layer {self.name!r} ({self.type})"

    @cached_property
    def options(self) -> dict[int, str]:
        """The options by their keys, as texts. Raises CorruptFileError."""
        options: dict[int, str] = {}
        at = 0
        while at < len(self.text):
            found = _OPTION.match(self.text, at)
            if found is None:
                raise bad(f"{self.where}: {self.text[at : at + 20]!r} is no option")
            key = int(found[1])
            options[-key - LIST if key <= -LIST else key] = found[2]
            at = found.end()
        return options

    def number(self, key: int, default: int) -> int:
        """An option that is a whole number. Raises CorruptFileError."""
        text = self.options.get(key)
        if text is None:
            return default
        if not _NUMBER.fullmatch(text) or abs(int(text)) > MAX_NUMBER:
            raise bad(f"{self.where}: the option {key} is {text[:20]!r}, and no whole number")
        return int(text)

    def count(self, key: int, default: int = 0) -> int:
        """A number that has to be at least 1. Raises CorruptFileError."""
        number = self.number(key, default)
        if number < 1:
            raise bad(f"{self.where}: the option {key} is {number:,}")
        return number


def read_param(source: Source) -> list[Layer]:
    """The layers in their order. Raises CorruptFileError, LimitError, UnsupportedError."""
    if source.size > MAX_PARAM:
        raise LimitError(f"the graph has {source.size:,} bytes; the limit is {MAX_PARAM:,}")
    text = bytes(source.read_all(MAX_PARAM)).decode("utf-8", "replace")
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    counts = lines[1].split() if len(lines) > 1 else []
    if lines[:1] == [] or lines[0].strip() != MAGIC.decode() or len(counts) != 2 or not counts[0].isdecimal():
        raise bad("it does not begin with the numbers of its layers and blobs")
    if len(counts[0]) > 9 or len(lines) - 2 < int(counts[0]):
        message = f"the ncnn graph is invalid: it has {len(lines) - 2:,} layers, and says that it has {counts[0][:10]}"
        raise CorruptFileError(message, hint=CUT_SHORT)
    return [_layer(line, index) for index, line in enumerate(lines[2 : 2 + int(counts[0])])]


def _layer(line: str, index: int) -> Layer:
    words = line.split(None, 4)
    if len(words) < 4 or not all(re.fullmatch(r"\d{1,9}", word) for word in words[2:4]):
        raise bad(f"line {index + 3:,} is no layer")
    kind, name = words[:2]
    if kind == "pnnx.Input" or (not index and kind.startswith("pnnx.")):
        raise UnsupportedError("this is a graph of pnnx's own, not ncnn's", hint="name the .ncnn.param beside it")
    blobs = int(words[2]) + int(words[3])
    rest = (words[4] if len(words) > 4 else "").split(None, blobs)
    if len(rest) < blobs:
        raise bad(f"layer {name!r} ({kind}) names fewer inputs and outputs than it has")
    return Layer(kind, name, rest[blobs].strip() if len(rest) > blobs else "")
