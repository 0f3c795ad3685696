r"""What a template's code reaches for that belongs to Python and not to the chat's messages.

- Internal attributes of Python's or Jinja's objects (`internal`): ``x.__class__``,
  ``self._TemplateReference__context``; frames of generators, which lead to Python's builtins:
  ``([]|map('int')).gi_frame.f_builtins``. Any other name is a key of a message: ``m['__meta__']``.
- Attributes variable_at by a value: the filter ``attr``, by itself or in ``map``.
- Items and attributes whose name is made from pieces: ``x[u ~ 'class' ~ u]``, ``x[['a', 'b']|join]``,
  ``map(attribute=a ~ b)``; also through a variable, a macro's argument or a block:
  ``{% set c %}__class__{% endset %}{{ x[c] }}``. The pieces need not show an underscore: the text of a function has one
  (``(lipsum|string)[18]``).
- The same through a string from the model's files: ``x[bos_token]``.
- Characters by number: ``'\x5f'``, ``'%c'``, ``'{:c}'``.

Honest templates take items by a string, a number, or a name that a loop or a parameter gives them. The number of passes
over the code does not grow with the template; code that is nested deeper than in honest templates is reported as such.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from ckptconv.formats.code.jinja.code import tokens_of
from ckptconv.formats.code.jinja.internal import is_internal
from ckptconv.formats.code.jinja.made import ASKS, COUNTS, FROM_FILES, is_joined, is_pieced, made_names, variable_at
from ckptconv.formats.code.jinja.words import CLOSE, MAX_DEPTH, QUOTES, depth_of, first, is_name, split, within

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

_HARMLESS_FILTERS = COUNTS | {"lower", "upper", "trim", "string"}
"""Filters that an item's name may have: they do not turn a harmless value into a name."""

_ATTRIBUTE_FILTERS = frozenset(["map", "selectattr", "rejectattr", "groupby", "sum"])
"""Filters whose first argument is the name of an attribute; others take it as ``attribute=``."""

_HIGHER_ORDER_FILTERS = frozenset(["map", "select", "reject", "selectattr", "rejectattr"])
"""Filters that take the name of another filter, or of a test."""

_MADE = "a name that is made"


def reached(code: Sequence[str]) -> list[str]:
    """The names that the pieces of code reach for, each once."""
    found = dict.fromkeys(next(filter(None, hit)) for text in code for hit in _SPELLED.findall(text))
    pieces = [tokens_of(text) for text in code]
    for piece in pieces:
        found |= dict.fromkeys(_hidden(piece))
    if max(map(depth_of, pieces), default=0) > MAX_DEPTH:
        return [*found, "what is nested too deeply"]
    result = made_names(pieces)
    parts = (part for piece in pieces for part in (*_subscripts(piece), *_attributes(piece)))
    if result is None or any(_is_made(part, result) for part in parts):
        found[_MADE] = None
    return list(found)


def _hidden(words: list[str]) -> Iterator[str]:
    """Internal attributes, as names or inside strings; characters by number."""
    before = ""
    for word in words:
        if word[0] in QUOTES:
            yield from filter(is_internal, word.strip("\"'").split("."))
            yield from _BY_NUMBER.findall(word)
        elif is_internal(word) and (word != "mro" or before == "."):
            yield word
        before = word


def _subscripts(words: list[str]) -> Iterator[list[str]]:
    """The subscripts: what is in square brackets behind a value."""
    for i, (before, word) in enumerate(pairwise(words)):
        if word == "[" and (before in CLOSE or before[0] in QUOTES or is_name(before)):
            inner = within(words, i + 1)
            if len(split(inner, (":",))) == 1:  # a slice names nothing
                yield inner


def _attributes(words: list[str]) -> Iterator[list[str]]:
    """The arguments with which filters take attributes."""
    for i, (before, word) in enumerate(pairwise(words)):
        if word == "(" and i and words[i - 1] == "|":
            inner = within(words, i + 1)
            if "attribute" in inner:
                yield first(inner[inner.index("attribute") + 2 :])
            elif before in _HIGHER_ORDER_FILTERS and first(inner)[:1] and first(inner)[0][0] not in QUOTES:
                yield inner
            elif before in _ATTRIBUTE_FILTERS:
                yield first(inner)


def _is_made(words: list[str], made: set[str]) -> bool:
    """Whether the name of an item is made from pieces, or is a variable that may be."""
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if is_joined(word, before, after) or (word[0] in QUOTES and after == "["):
            return True
        if word == "|" and (after not in _HARMLESS_FILTERS or before[:1] in QUOTES):
            return True
        if word == "(" and before and is_name(before) and before not in ASKS and before not in COUNTS:
            return True
        if before not in (".", "|") and (FROM_FILES.fullmatch(word) or not made.isdisjoint(variable_at(words, i))):
            return True
    return is_pieced(words, made)
