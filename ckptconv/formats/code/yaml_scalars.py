"""The scalar values of given keys in a YAML text, however they are written, without parsing the rest.

In front of a scalar there may be quotes, comments, an anchor (``&a``), a tag (``!!str``) and a block indicator
(``>-``); an alias (``*a``) has the value of its anchor. Keys can be written in the same ways. Names of anchors are
those that PyYAML accepts.

Each step is bounded, or covers a stretch of the text that no other step covers, so that the time is linear.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HIDDEN = "<hidden>"
"""The value that is returned if more is in front of a scalar than YAML allows."""

_MAX_MARKS, _MAX_ALIASES, _MAX_VALUES, _MAX_ANCHORS = 4, 100, 100, 10_000
"""Marks in front of a scalar, keys that are aliases, values of one anchor, and anchors: no honest file has more."""

_ANCHOR = re.compile(r"&([\w-]{1,256}+)")
_STEP = re.compile(
    r"""[\s"']*+(?:(?P<comment>\#)|\*(?P<alias>[\w-]{1,256}+)|(?P<value>[\w.]++|\$\{[^\s"',]{0,256}+)"""
    r"""|(?P<mark>&[\w-]{1,256}+|!<[^>\n]{0,256}+>|![^\s,\[\]{}]{0,256}+|[|>][-+0-9]{0,2}+)(?=[\s\#"'&!,]|$)"""
    r"""|(?P<odd>[&!|>]))"""
)
_SCALAR = re.compile(r"""\*[\w-]{1,256}+|[\w.]++|\$\{[^\s"',]{0,256}+""")
_ALIAS = re.compile(r"\*([\w-]{1,256}+)")
_BLANK = re.compile(r"""[\s"']*+""")
_LINES = re.compile(r"""[^\n]++(?:\n(?![ \t]*+["'\w-]++["']?[ \t]*+:(?:\s|$))[^\n]*+)*+""")
"""A line, and the lines after it that do not begin with a key."""

_QUOTED = {'"': re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL), "'": re.compile(r"[^']*+(?:''[^']*+)*+")}

_COLON = re.compile(r"""[\s"']*+(?:(?P<comment>\#)|(?P<colon>:))""")
_WORD = re.compile(r"""(?<![^\s"':,\[{])[\w.]++(?![^\s"',\]}])""")


class Scalars:
    """Finds the scalars of a YAML text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._newline = -1
        self._anchors: dict[str, set[str]] | None = None

    def values_of(self, *keys: str) -> Iterator[tuple[str, str, int]]:
        """Each occurrence of one of the keys: (key, value, its position). An alias yields the value of each of its
        anchors. After the first value that begins with ``${``, with which OmegaConf builds strings from others, each
        word that stands alone in the text is yielded as a possible value.
        """
        words = "|".join(map(re.escape, keys))
        anchored = self._anchor_values()
        aliases = {name: value for name, values in anchored.items() for value in values if value in keys}
        starred = "".join(rf"|\*{re.escape(name)}(?![\w-])" for name in [*aliases][:_MAX_ALIASES])
        self._newline, put_together = -1, False
        for found in re.finditer(rf"(?<![\w-])(?:{words})(?![\w-]){starred}", self._text):
            key = aliases.get(found[0].removeprefix("*"), found[0])
            if (at := self._after_colon(found.end())) < 0:
                continue
            value = self._scalar(at)
            for name in anchored.get(value[1:], ()) if value.startswith("*") else (value,):
                yield key, name, found.start()
            if value.startswith("${") and not put_together:
                put_together = True
                yield from ((key, name, found.start()) for name in {*_WORD.findall(self._text)})

    def texts_of(self, *keys: str) -> Iterator[tuple[str, int]]:
        """The whole text behind each of the keys, as one line, with the key's position. Keys count at the start of a
        line or inside braces. A quoted text is taken whole, any other up to the next line with a key. An alias counts
        once, and yields the text of each of its anchors; `HIDDEN` as above.
        """
        words = "|".join(map(re.escape, keys))
        key = re.compile(rf"""(?:^[^\S\n]*+|(?P<inside>[{{,][^\S\n]*+))["']?(?:{words})(?![\w-])""", re.MULTILINE)
        self._newline, inside, aliases = -1, 0, set[str]()
        for found in key.finditer(self._text):
            inside += found["inside"] is not None
            if (at := self._after_colon(found.end())) < 0:
                continue
            start = self._scalar_start(at) if inside <= _MAX_VALUES else -1
            alias = _ALIAS.match(self._text, start) if start >= 0 else None
            if alias is None:
                yield self._text_at(start), found.end()
            elif alias[1] not in aliases and len(aliases) < _MAX_ALIASES:
                aliases.add(alias[1])
                yield from ((text, found.end()) for text in self._texts_of_anchors(alias[1]))

    def _texts_of_anchors(self, name: str) -> list[str]:
        """The texts behind the anchors of a name."""
        newline = self._newline
        places = re.finditer(rf"&{re.escape(name)}(?![\w-])", self._text)
        self._newline = -1
        texts = [self._text_at(self._scalar_start(found.end())) for found in islice(places, _MAX_ALIASES)]
        self._newline = newline
        return texts

    def _text_at(self, at: int) -> str:
        if at < 0:
            return HIDDEN
        found = _QUOTED.get(self._text[at - 1 : at], _LINES).match(self._text, at)
        return " ".join(found[0].split()) if found else ""

    def _scalar_start(self, at: int) -> int:
        """Where the next scalar or alias begins, after its opening quote; -1 if it is hidden."""
        marks = 0
        while step := _STEP.match(self._text, at):
            if step["value"] is not None or step["alias"] is not None:
                return step.end() - len(step["value"] or f"*{step['alias']}")
            if step["comment"]:
                at = self._end_of_line(step.end())
                continue
            marks += 1
            if marks > _MAX_MARKS or step["odd"]:
                return -1
            at = step.end()
        blank = _BLANK.match(self._text, at)
        return blank.end() if blank else at

    def _anchor_values(self) -> dict[str, set[str]]:
        """The values of each anchor."""
        if self._anchors is None:
            self._anchors, self._newline = defaultdict(set), -1
            for count, found in enumerate(_ANCHOR.finditer(self._text)):
                values = self._anchors[found[1]]
                few = count < _MAX_ANCHORS and len(values) < _MAX_VALUES
                values.add(self._scalar(found.end()) if few else HIDDEN)
        return self._anchors

    def _after_colon(self, at: int) -> int:
        """The position after the next colon; -1 if something else comes first."""
        while step := _COLON.match(self._text, at):
            if step["colon"]:
                return step.end()
            at = self._end_of_line(step.end())
        return -1

    def _scalar(self, at: int) -> str:
        """The next scalar; an alias with its star; "" if there is none."""
        start = self._scalar_start(at)
        if start < 0:
            return HIDDEN
        scalar = _SCALAR.match(self._text, start)
        return scalar[0] if scalar else ""

    def _end_of_line(self, at: int) -> int:
        """Where the line ends. If positions are asked for in ascending order, no line is searched twice."""
        if self._newline < at:
            found = self._text.find("\n", at)
            self._newline = len(self._text) if found < 0 else found
        return self._newline
