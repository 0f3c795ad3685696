r"""What the code of a template reaches for that is Python's own, and no message's.

- Names with underscores before and after them, also within a text, and attributes with one before: ``x.__class__``,
  ``x['__cla' 'ss__']``, ``self._TemplateReference__context``; frames of generators, which lead to Python's builtins:
  ``([]|map('int')).gi_frame.f_builtins``.
- Attributes by a value: the filter ``attr``, by itself or in ``map``.
- Items and attributes whose name is made: ``x[u ~ 'class' ~ u]``, ``x[['a', 'b']|join]``, ``map(attribute=a ~ b)``; by
  way of a variable, an argument of a macro, or a block as well: ``{% set c %}__class__{% endset %}{{ x[c] }}``. What
  they are made of need not show an underscore: it is in the text of a function, too (``(lipsum|string)[18]``).
- Letters by their numbers: ``'\x5f'``, ``'%c'``, ``'{:c}'``.

Honest templates take items by a text, a number, or a name that a loop or a parameter gives them. All is looked at a
number of times that does not grow with the template: what is nested deeper than honest ones are is told by itself.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from ckptconv.formats.jinja.code import tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_DEEP = 16
"""Brackets in each other."""

MOST_ROUNDS = 8
"""Names in a chain, each made of the one before, that are found from the last to the first."""

_SPELLED = re.compile(
    r"""(?<!\w)(__\w+__)(?!\w)               # an attribute by its name, also as that of an argument
      | ["'](__\w*|\w*__)["']             # a half of one
      | \|\s*(attr)\b                      # one by a value
      | \b(?:map|select|reject)\s*\(\s*["'](attr)["']
      | (\\x5f|\\u0{0,4}5f|\\137|\\N\{)     # an underscore that is not to be seen
      | ["'](_)["']\s*[~*+]               # or one by itself, to be put together
      | [~*+]\s*["'](_)["']
      | (__(?:class|mro|bases?|subclasses|init|globals|builtins|import|getattribute|dict|call|self|reduce(?:_ex)?)__)
      | \b((?:gi|cr|ag)_(?:frame|code)|f_(?:globals|builtins|locals|back|code)|tb_(?:frame|next))\b
      | \b(func_(?:globals|code))\b
      | (%[-+#0-9.*]*c|%\(\w*\)c)""",
    re.VERBOSE | re.IGNORECASE,
)
_BY_NUMBER = re.compile(r"\{[\w!.]{0,40}:[^{}]{0,20}c\}")

_MAKES = frozenset(["join", "replace", "format", "reverse", "string", "lower", "upper", "title", "capitalize"])
"""Filters that make a text of others."""

_COUNTS = frozenset(["length", "count", "int", "abs", "first", "last", "min", "max", "round", "float", "default", "d"])
"""Filters that an index may have."""

_ASKS = frozenset(["get", "items", "keys", "values", "index", "find", "rfind", "count"])
"""Methods that make no text."""

_OF_ATTRIBUTES = frozenset(["map", "selectattr", "rejectattr", "groupby"])
"""Filters that are given the name of an attribute first; others by the name ``attribute``."""

_KEYWORDS = frozenset(["in", "and", "or", "not", "if", "else", "elif", "is", "set", "for", "recursive"])
_QUOTES = ("'", '"')
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_MADE = "a name that is made"

_GIVEN = ("kwargs", "varargs", "caller")
"""What a macro is given without naming it."""


def reached(code: Sequence[str]) -> list[str]:
    """What it reaches for, each once."""
    found = dict.fromkeys(next(filter(None, hit)) for one in code for hit in _SPELLED.findall(one))
    pieces = [tokens_of(one) for one in code]
    for piece in pieces:
        found |= dict.fromkeys(_hidden(piece))
    if max(map(_depth, pieces), default=0) > MOST_DEEP:
        return [*found, "what is nested too deeply"]
    made = _made_names(pieces)
    parts = (part for piece in pieces for part in (*_subscripts(piece), *_attributes(piece)))
    if made is None or any(_is_made(part, made) for part in parts):
        found[_MADE] = None
    return list(found)


def _hidden(words: list[str]) -> Iterator[str]:
    """Attributes that begin with an underscore, the order in which a class is looked through, letters by numbers."""
    for before, word in pairwise(words):
        if before == "." and (word.startswith("_") or word == "mro"):
            yield word
    yield from (found for word in words if word[0] in _QUOTES for found in _BY_NUMBER.findall(word))


def _depth(words: list[str]) -> int:
    deepest = depth = 0
    for word in words:
        depth += (word in _OPEN) - (word in _CLOSE)
        deepest = max(deepest, depth)
    return deepest


def _within(words: list[str], start: int) -> list[str]:
    """What stands in the brackets that open at `start`."""
    depth = 0
    for i in range(start, len(words)):
        depth += (words[i] in _OPEN) - (words[i] in _CLOSE)
        if not depth:
            return words[start + 1 : i]
    return words[start + 1 :]


def _first(words: list[str]) -> list[str]:
    """The first argument of several."""
    depth = 0
    for i, word in enumerate(words):
        depth += (word in _OPEN) - (word in _CLOSE)
        if word == "," and not depth:
            return words[:i]
    return words


def _is_name(word: str) -> bool:
    return word[0].isalpha() and word not in _KEYWORDS


def _subscripts(words: list[str]) -> Iterator[list[str]]:
    """What stands in brackets behind something, of which it is an item."""
    for i, (before, word) in enumerate(pairwise(words)):
        if word == "[" and (before in _CLOSE or before[0] in _QUOTES or _is_name(before)):
            yield _within(words, i + 1)


def _attributes(words: list[str]) -> Iterator[list[str]]:
    """What a filter takes attributes by."""
    for i, (before, word) in enumerate(pairwise(words)):
        if word == "(" and i and words[i - 1] == "|":
            inner = _within(words, i + 1)
            if "attribute" in inner:
                yield _first(inner[inner.index("attribute") + 2 :])
            elif before in _OF_ATTRIBUTES:
                yield _first(inner)


def _is_made(words: list[str], made: set[str]) -> bool:
    """Whether the name of an item is put together of texts, or is one of the names that are."""
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if _is_joined(word, before, after) or (word[0] in _QUOTES and after == "["):
            return True
        if word == "|" and after not in _COUNTS:
            return True
        if word == "(" and before and _is_name(before) and before not in _ASKS and before not in _COUNTS:
            return True
        if before not in (".", "|") and not made.isdisjoint(_named(words, i)):
            return True
    return False


def _named(words: list[str], i: int) -> tuple[str, str]:
    """The variable that begins at `i`, and its attribute: ``ns``, ``ns.index``."""
    return words[i], "".join(words[i : i + 3])


def _is_joined(word: str, before: str, after: str) -> bool:
    """Whether a text is joined with another one, or repeated, or filled in."""
    return word == "~" or (word[0] in _QUOTES and (before in ("+", "*", "%") or after in ("+", "*", "%")))


def _makes(words: list[str], made: set[str]) -> bool:
    """Whether a value is, or holds, a text that is put together: not by any filter, as the name of an item is."""
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if _is_joined(word, before, after) or (word[0] in _QUOTES and after in ("[", ".")):
            return True
        if word == "|" and after in _MAKES:
            return True
        if before not in (".", "|") and not made.isdisjoint(_named(words, i)):
            return True
    return False


def _made_names(pieces: list[list[str]]) -> set[str] | None:
    """Variables, loop variables and parameters of macros that may be put together of texts; None where they are too
    many in a chain.
    """
    made: set[str] = set(_GIVEN)
    parameters: dict[str, set[str]] = {}
    for words in pieces:
        match words:
            case ["macro", str() as name, "(", *rest]:
                parameters[name] = {word for word in rest if _is_name(word)}
                made.add(name)  # what it gives is a text
            case ["call", "(", *rest]:
                made |= {word for word in _first_bracket(rest) if _is_name(word)}
            case ["set", str() as name, *rest] if "=" not in rest:
                made.add(name)  # a block of text
    for _ in range(MOST_ROUNDS):
        before = len(made)
        for words in pieces:
            made |= _bound(words, made, parameters)
        if len(made) == before:
            return made
    return None


def _first_bracket(words: list[str]) -> list[str]:
    return words[: words.index(")")] if ")" in words else words


def _bound(words: list[str], made: set[str], parameters: dict[str, set[str]]) -> set[str]:
    """The names that a piece of code gives such a text to."""
    found: set[str] = set()
    mark = {"set": "=", "with": "=", "for": "in"}.get(words[0] if words else "")
    if mark in words and _makes(words[words.index(mark) + 1 :], made):
        bound = words[1 : words.index(mark)]
        found |= {"".join(bound)} if bound[1:2] == ["."] else {word for word in bound if _is_name(word)}
    for i, (before, word) in enumerate(pairwise(words)):
        called = word == "(" and before in parameters and (not i or words[i - 1] != "macro")
        if called and _makes(_within(words, i + 1), made):
            found |= parameters[before]
    return found
