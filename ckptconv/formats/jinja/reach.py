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

from ckptconv.formats.jinja.code import tokens_of
from ckptconv.formats.jinja.internal import is_internal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_DEEP = 16
"""Brackets in each other."""

MOST_ROUNDS = 8
"""Names in a chain, each made of the one before, that are found from the last to the first."""

_SPELLED = re.compile(
    r"""\|\s*(attr)\b                      # an attribute by a value
      | \b(?:map|select|reject)\s*\(\s*["'](attr)["']
      | (\\x5f|\\u0{0,4}5f|\\137|\\N\{)     # an underscore that is not to be seen
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

_OF_ATTRIBUTES = frozenset(["map", "selectattr", "rejectattr", "groupby", "sum"])
"""Filters that are given the name of an attribute first; others by the name ``attribute``."""

_OF_FILTERS = frozenset(["map", "select", "reject", "selectattr", "rejectattr"])
"""Filters that are given the name of another one, or of a test."""

_COMPARES = frozenset(["split", "rsplit", "startswith", "endswith", "strip", "lstrip", "rstrip", *_ASKS])
"""Methods whose arguments are no part of what they give."""

_OF_FILES = re.compile(r"\w+_tokens?(_\w+)?")
"""Variables that a file of the model fills, which may be an attacker's: ``bos_token``."""

_KEYWORDS = frozenset(["in", "and", "or", "not", "if", "else", "elif", "is", "set", "for", "recursive"])
_QUOTES = ("'", '"')
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_MADE = "a name that is made"

_HELD, _TEXT = "held ", "text "
"""Before the names of variables, among those that are made: what holds texts of the template's, and what is one."""

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
    """Internal attributes, by their names or within a text; letters by numbers."""
    before = ""
    for word in words:
        if word[0] in _QUOTES:
            yield from filter(is_internal, word.strip("\"'").split("."))
            yield from _BY_NUMBER.findall(word)
        elif is_internal(word) and (word != "mro" or before == "."):
            yield word
        before = word


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
            elif before in _OF_FILTERS and _first(inner)[:1] and _first(inner)[0][0] not in _QUOTES:
                yield inner
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
        if before not in (".", "|") and (_OF_FILES.fullmatch(word) or not made.isdisjoint(_named(words, i))):
            return True
    return _is_pieced(words, made)


def _named(words: list[str], i: int) -> tuple[str, str]:
    """The variable that begins at `i`, and its attribute: ``ns``, ``ns.index``."""
    return words[i], "".join(words[i : i + 3])


def _is_joined(word: str, before: str, after: str) -> bool:
    """Whether a text is joined with another one, or repeated, or filled in."""
    if word[0] not in _QUOTES:
        return word == "~"
    return before in ("+", "*", "%") or after in ("+", "*", "%") or (after[:1] in _QUOTES and after != "")


def _is_pieced(words: list[str], made: set[str]) -> bool:
    """Whether a part is taken of a text that stands in the template, or of a list of such, or several are joined."""
    held = [i for i, word in enumerate(words) if _HELD + word in made and (not i or words[i - 1] not in (".", "|"))]
    joins = not {"+", "*", "%", "|"}.isdisjoint(words)
    return any(joins or words[i + 1 : i + 2] == ["."] or _is_cut(words, i + 1) for i in held)


def _is_cut(words: list[str], at: int) -> bool:
    """Whether an item is taken there by a number, and then one of that; or a slice."""
    if words[at : at + 1] != ["["]:
        return False
    inner = _within(words, at)
    end = at + len(inner) + 2
    return ":" in inner or words[end : end + 1] in (["["], ["."])


def _makes(words: list[str], made: set[str]) -> bool:
    """Whether a value is, or holds, a text that is put together: not by any filter, as the name of an item is."""
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if _is_joined(word, before, after) or (word[0] in _QUOTES and after in ("[", ".")):
            return True
        if word == "|" and after in _MAKES:
            return True
        if word[0] in _QUOTES and _is_half(word) and not _is_compared(words, i):
            return True
        if before not in (".", "|") and (_OF_FILES.fullmatch(word) or not made.isdisjoint(_named(words, i))):
            return True
    return _is_pieced(words, made)


def _is_half(word: str) -> bool:
    """Whether a text could be a half of an attribute's name, or what stands around one."""
    text = word.strip("\"'")
    return text.startswith("__") or text.endswith("__") or text == "_"


def _is_compared(words: list[str], i: int) -> bool:
    """Whether a text only asks something of another one, or is the key of an item, and is no part of a value."""
    before, after = words[i - 1 : i], words[i + 1 : i + 2]
    if before in (["="], ["in"]) or after in (["="], ["!"]):
        return words[i - 2 : i - 1] in (["="], ["!"]) or before == ["in"] or words[i + 2 : i + 3] == ["="]
    if before == ["("]:
        return words[i - 3 : i - 2] == ["."] and words[i - 2] in _COMPARES
    is_item = before == ["["] and after == ["]"]
    return is_item and i > 1 and (words[i - 2] in _CLOSE or _is_name(words[i - 2]))


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


def _holds(words: list[str], made: set[str]) -> bool:
    """Whether a value is, or has, a text of the template's own that has an underscore in it."""
    texts = (i for i, word in enumerate(words) if word[0] in _QUOTES and "_" in word)
    return any(not _is_compared(words, i) for i in texts) or any(_HELD + word in made for word in words)


def _first_bracket(words: list[str]) -> list[str]:
    return words[: words.index(")")] if ")" in words else words


def _bound(words: list[str], made: set[str], parameters: dict[str, set[str]]) -> set[str]:
    """The names that a piece of code gives such a text to."""
    found: set[str] = set()
    mark = {"set": "=", "with": "=", "for": "in"}.get(words[0] if words else "")
    if mark in words:
        bound, value = words[1 : words.index(mark)], words[words.index(mark) + 1 :]
        names = {"".join(bound)} if bound[1:2] == ["."] else {word for word in bound if _is_name(word)}
        if _makes(value, made) or (mark == "in" and _HELD + "".join(value) in made and _TEXT + value[0] in made):
            found |= names
        elif _holds(value, made):
            found |= {_HELD + name for name in names} | {_TEXT + name for name in names if value[0][0] in _QUOTES}
    for i, (before, word) in enumerate(pairwise(words)):
        called = word == "(" and before in parameters and (not i or words[i - 1] != "macro")
        if called and _makes(_within(words, i + 1), made):
            found |= parameters[before]
    return found
