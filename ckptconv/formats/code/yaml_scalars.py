"""What keys of a text of YAML have as values, without reading the rest: scalars, however they are written.

Before a scalar may stand quotes, comments, an anchor (``&a``), a tag (``!!str``) and that it is a block of lines
(``>-``); an alias (``*a``) is what its anchor has. A key may be written likewise. PyYAML's letters of anchors count.

Every step is bounded or goes over a stretch of the text that none other does, so that the time is linear.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HIDDEN = "<hidden>"
"""The value where more stands before a scalar than YAML knows."""

_MOST_MARKS, _MOST_ALIASES, _MOST_VALUES, _MOST_ANCHORS = 4, 100, 100, 10_000
"""Marks before a scalar, keys by an alias, values of one anchor, and anchors: no honest file has more."""

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
"""A line, and those that follow without a key."""

_QUOTED = {'"': re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL), "'": re.compile(r"[^']*+(?:''[^']*+)*+")}

_COLON = re.compile(r"""[\s"']*+(?:(?P<comment>\#)|(?P<colon>:))""")
_WORD = re.compile(r"""(?<![^\s"':,\[{])[\w.]++(?![^\s"',\]}])""")


class Scalars:
    """The scalars of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._newline = -1
        self._anchors: dict[str, set[str]] | None = None

    def values_of(self, *keys: str) -> Iterator[tuple[str, str, int]]:
        """Each of these keys that the text has, its value, and where it stands; an alias has all that its anchors have.
        The first that begins with ``${``, as OmegaConf puts texts together, is followed by the words that stand alone.
        """
        words = "|".join(map(re.escape, keys))
        anchored = self._anchored()
        aliases = {name: value for name, values in anchored.items() for value in values if value in keys}
        starred = "".join(rf"|\*{re.escape(name)}(?![\w-])" for name in [*aliases][:_MOST_ALIASES])
        self._newline, put_together = -1, False
        for found in re.finditer(rf"(?<![\w-])(?:{words})(?![\w-]){starred}", self._text):
            key = aliases.get(found[0].removeprefix("*"), found[0])
            if (at := self._behind_colon(found.end())) < 0:
                continue
            value = self._scalar(at)
            for name in anchored.get(value[1:], ()) if value.startswith("*") else (value,):
                yield key, name, found.start()
            if value.startswith("${") and not put_together:
                put_together = True
                yield from ((key, name, found.start()) for name in {*_WORD.findall(self._text)})

    def texts_of(self, *keys: str) -> Iterator[tuple[str, int]]:
        """What stands behind each of these keys that a line or a mapping in braces begins with: all of a text in
        quotes, else up to the next line with a key, as one line; and where the key stands. Of an alias, which counts
        once, what is behind each of its anchors; `HIDDEN` as above.
        """
        words = "|".join(map(re.escape, keys))
        key = re.compile(rf"""(?:^[^\S\n]*+|(?P<inside>[{{,][^\S\n]*+))["']?(?:{words})(?![\w-])""", re.MULTILINE)
        self._newline, inside, aliases = -1, 0, set[str]()
        for found in key.finditer(self._text):
            inside += found["inside"] is not None
            if (at := self._behind_colon(found.end())) < 0:
                continue
            start = self._start(at) if inside <= _MOST_VALUES else -1
            alias = _ALIAS.match(self._text, start) if start >= 0 else None
            if alias is None:
                yield self._text_at(start), found.end()
            elif alias[1] not in aliases and len(aliases) < _MOST_ALIASES:
                aliases.add(alias[1])
                yield from ((text, found.end()) for text in self._behind_anchors(alias[1]))

    def _behind_anchors(self, name: str) -> list[str]:
        """The texts of some anchors of one name."""
        newline = self._newline
        places = re.finditer(rf"&{re.escape(name)}(?![\w-])", self._text)
        self._newline = -1
        texts = [self._text_at(self._start(found.end())) for found in islice(places, _MOST_ALIASES)]
        self._newline = newline
        return texts

    def _text_at(self, at: int) -> str:
        if at < 0:
            return HIDDEN
        found = _QUOTED.get(self._text[at - 1 : at], _LINES).match(self._text, at)
        return " ".join(found[0].split()) if found else ""

    def _start(self, at: int) -> int:
        """Where the scalar begins that comes next, or an alias of it, behind quotes; -1 where it is hidden."""
        marks = 0
        while step := _STEP.match(self._text, at):
            if step["value"] is not None or step["alias"] is not None:
                return step.end() - len(step["value"] or f"*{step['alias']}")
            if step["comment"]:
                at = self._behind_line(step.end())
                continue
            marks += 1
            if marks > _MOST_MARKS or step["odd"]:
                return -1
            at = step.end()
        blank = _BLANK.match(self._text, at)
        return blank.end() if blank else at

    def _anchored(self) -> dict[str, set[str]]:
        """What stands behind each anchor."""
        if self._anchors is None:
            self._anchors, self._newline = defaultdict(set), -1
            for count, found in enumerate(_ANCHOR.finditer(self._text)):
                values = self._anchors[found[1]]
                few = count < _MOST_ANCHORS and len(values) < _MOST_VALUES
                values.add(self._scalar(found.end()) if few else HIDDEN)
        return self._anchors

    def _behind_colon(self, at: int) -> int:
        """The place behind the colon that follows; -1 where none does."""
        while step := _COLON.match(self._text, at):
            if step["colon"]:
                return step.end()
            at = self._behind_line(step.end())
        return -1

    def _scalar(self, at: int) -> str:
        """The scalar that comes next; an alias with its star, "" where there is none."""
        start = self._start(at)
        found = _SCALAR.match(self._text, start) if start >= 0 else None
        return HIDDEN if start < 0 else found[0] if found else ""

    def _behind_line(self, at: int) -> int:
        """Where the line ends; asked for from places in their order, no line is searched twice."""
        if self._newline < at:
            found = self._text.find("\n", at)
            self._newline = len(self._text) if found < 0 else found
        return self._newline
