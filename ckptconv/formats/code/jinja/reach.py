r"""What the code of a template reaches for that is Python's own, and no message's.

- Attributes that objects of Python's or Jinja's own have for themselves (`internal`): ``x.__class__``,
  ``self._TemplateReference__context``; frames of generators, which lead to Python's builtins:
  ``([]|map('int')).gi_frame.f_builtins``. A name that none of them has is a key of a message, ``m['__meta__']``.
- Attributes by a value: the filter ``attr``, by itself or in ``map``.
- Items and attributes whose name is made: ``x[u ~ 'class' ~ u]``, ``x[['a', 'b']|join]``, ``map(attribute=a ~ b)``; by
  way of a variable, an argument of a macro, or a block as well: ``{% set c %}__class__{% endset %}{{ x[c] }}``. What
  they are made of need not show an underscore: it is in the text of a function, too (``(lipsum|string)[18]``).
- The same by a text of the model's own files: ``x[bos_token]``.
- Letters by their numbers: ``'\x5f'``, ``'%c'``, ``'{:c}'``.

Honest templates take items by a text, a number, or a name that a loop or a parameter gives them. All is looked at a
number of times that does not grow with the template: what is nested deeper than honest ones are is told by itself.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from ckptconv.formats.code.jinja.code import tokens_of
from ckptconv.formats.code.jinja.internal import is_internal
from ckptconv.formats.code.jinja.made import ASKS, COUNTS, OF_FILES, is_joined, is_pieced, made_names, named
from ckptconv.formats.code.jinja.words import CLOSE, MOST_DEEP, QUOTES, depth_of, first, is_name, split, within

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPELLED = re.compile(
    r"""\|\s*(attr)\b                      # an attribute by a value
      | \b(?:map|select|reject)\s*\(\s*["'](attr)["']
      | (__(?:class|mro|bases?|subclasses|init|globals|builtins|import|getattribute|dict|call|self|reduce(?:_ex)?)__)
      | \b((?:gi|cr|ag)_(?:frame|code)|f_(?:globals|builtins|locals|back|code)|tb_(?:frame|next))\b
      | \b(func_(?:globals|code))\b
      | (%[-+#0-9.*]*c|%\(\w*\)c)""",
    re.VERBOSE | re.IGNORECASE,
)
_BY_NUMBER = re.compile(r"\{[\w!.]{0,40}:[^{}]{0,20}c\}")

_ASIDE = COUNTS | {"lower", "upper", "trim", "string"}
"""…and that of an item: what is not a name before them is none behind."""

_OF_ATTRIBUTES = frozenset(["map", "selectattr", "rejectattr", "groupby", "sum"])
"""Filters that are given the name of an attribute first; others by the name ``attribute``."""

_OF_FILTERS = frozenset(["map", "select", "reject", "selectattr", "rejectattr"])
"""Filters that are given the name of another one, or of a test."""

_MADE = "a name that is made"


def reached(code: Sequence[str]) -> list[str]:
    """What it reaches for, each once."""
    found = dict.fromkeys(next(filter(None, hit)) for one in code for hit in _SPELLED.findall(one))
    pieces = [tokens_of(one) for one in code]
    for piece in pieces:
        found |= dict.fromkeys(_hidden(piece))
    if max(map(depth_of, pieces), default=0) > MOST_DEEP:
        return [*found, "what is nested too deeply"]
    made = made_names(pieces)
    parts = (part for piece in pieces for part in (*_subscripts(piece), *_attributes(piece)))
    if made is None or any(_is_made(part, made) for part in parts):
        found[_MADE] = None
    return list(found)


def _hidden(words: list[str]) -> Iterator[str]:
    """Internal attributes, by their names or within a text; letters by numbers."""
    before = ""
    for word in words:
        if word[0] in QUOTES:
            yield from filter(is_internal, word.strip("\"'").split("."))
            yield from _BY_NUMBER.findall(word)
        elif is_internal(word) and (word != "mro" or before == "."):
            yield word
        before = word


def _subscripts(words: list[str]) -> Iterator[list[str]]:
    """What stands in brackets behind something, of which it is an item."""
    for i, (before, word) in enumerate(pairwise(words)):
        if word == "[" and (before in CLOSE or before[0] in QUOTES or is_name(before)):
            inner = within(words, i + 1)
            if len(split(inner, (":",))) == 1:  # a slice names nothing
                yield inner


def _attributes(words: list[str]) -> Iterator[list[str]]:
    """What a filter takes attributes by."""
    for i, (before, word) in enumerate(pairwise(words)):
        if word == "(" and i and words[i - 1] == "|":
            inner = within(words, i + 1)
            if "attribute" in inner:
                yield first(inner[inner.index("attribute") + 2 :])
            elif before in _OF_FILTERS and first(inner)[:1] and first(inner)[0][0] not in QUOTES:
                yield inner
            elif before in _OF_ATTRIBUTES:
                yield first(inner)


def _is_made(words: list[str], made: set[str]) -> bool:
    """Whether the name of an item is put together of texts, or is one of the names that are."""
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if is_joined(word, before, after) or (word[0] in QUOTES and after == "["):
            return True
        if word == "|" and (after not in _ASIDE or before[:1] in QUOTES):
            return True
        if word == "(" and before and is_name(before) and before not in ASKS and before not in COUNTS:
            return True
        if before not in (".", "|") and (OF_FILES.fullmatch(word) or not made.isdisjoint(named(words, i))):
            return True
    return is_pieced(words, made)
