r"""Names of variables, loop variables and parameters whose values may be texts that are put together.

What a text is put together of: other texts by ``~``, ``+``, ``%`` and ``*``, by filters and methods; parts of a text
that stands in the template, or of a list of such; blocks and macros, which give texts; texts of the model's own files.
Sums of numbers, lengths and loops' indices are none, nor is what only asks something of a text (``x.split('__')``).
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from ckptconv.formats.code.jinja.words import CLOSE, MOST_DEEP, QUOTES, is_name, split, within

if TYPE_CHECKING:
    from collections.abc import Collection

MOST_ROUNDS = 8
"""Names in a chain, each made of the one before, that are found from the last to the first."""

COUNTS = frozenset(["length", "count", "int", "abs", "first", "last", "min", "max", "round", "float", "default", "d"])
"""Filters that an index may have."""

_PASSES = COUNTS | {
    "list", "items", "dictsort", "sort", "unique", "select", "reject", "selectattr", "rejectattr", "map", "groupby",
    "batch", "slice", "sum",
}  # fmt: skip
"""Filters that make no text: all others may make one of anything, ``lipsum|trim``."""

ASKS = frozenset(["get", "items", "keys", "values", "index", "find", "rfind", "count"])
"""Methods that make no text."""

_COMPARES = frozenset(["split", "rsplit", "startswith", "endswith", "strip", "lstrip", "rstrip", *ASKS])
"""Methods whose arguments are not part of what they give."""

OF_FILES = re.compile(r"\w+_tokens?(_\w+)?")
"""Variables that a file of the model fills, which may be an attacker's: ``bos_token``."""

_SIGNS = frozenset(["+", "-", "*", "/", "%"])

_HELD, _TEXT = "held ", "text "
"""Before the names of variables, among those that are made: what holds texts of the template's, and what is one."""

_GIVEN = ("kwargs", "varargs", "caller", "self", "super")
"""What a macro is given without naming it, and blocks of text by their names."""


def named(words: list[str], i: int) -> tuple[str, str]:
    """The variable that begins at `i`, and its attribute: ``ns``, ``ns.index``."""
    return words[i], "".join(words[i : i + 3])


def is_joined(word: str, before: str, after: str) -> bool:
    """Whether a text is joined with another one, or repeated, or filled in."""
    if word[0] not in QUOTES:
        return word == "~"
    return before in ("+", "*", "%") or after in ("+", "*", "%") or (after[:1] in QUOTES and after != "")


def is_pieced(words: list[str], made: set[str]) -> bool:
    """Whether a part is taken of a text that stands in the template, or of a list of such, or several are joined."""
    held = [i for i, word in enumerate(words) if _HELD + word in made and (not i or words[i - 1] not in (".", "|"))]
    joins = not {"+", "*", "%", "|"}.isdisjoint(words)
    return any(joins or words[i + 1 : i + 2] == ["."] or _is_cut(words, i + 1) for i in held)


def _is_cut(words: list[str], at: int) -> bool:
    """Whether an item is taken there by a number, and then one of that; or a slice."""
    if words[at : at + 1] != ["["]:
        return False
    inner = within(words, at)
    end = at + len(inner) + 2
    return ":" in inner or words[end : end + 1] in (["["], ["."])


def _makes(words: list[str], made: set[str]) -> bool:
    """Whether a value is, or holds, a text that is put together: not by any filter, as the name of an item is."""
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if is_joined(word, before, after) or (word[0] in QUOTES and after in ("[", ".")):
            return True
        if word == "|" and after not in _PASSES:
            return True
        if word == "(" and i > 1 and words[i - 2] == "." and before not in _COMPARES:
            return True
        if word[0] in QUOTES and _is_half(word) and not _is_compared(words, i):
            return True
        if before not in (".", "|") and (OF_FILES.fullmatch(word) or not made.isdisjoint(named(words, i))):
            return True
    return is_pieced(words, made)


def _is_number(words: list[str], depth: int = 0) -> bool:
    """Whether a value is sums and the like of numbers, of lengths, and of loops' indices."""
    parts = split(words, _SIGNS)
    return depth < MOST_DEEP and all(not part or _is_count(part, depth) for part in parts) and any(parts)


def _is_count(words: list[str], depth: int) -> bool:
    match words:
        case [word]:
            return word.isdecimal()
        case ["range", "(", *rest]:
            return len(within(["(", *rest], 0)) == len(rest) - 1
        case ["loop", ".", str() as name]:
            return name.startswith(("index", "revindex", "length"))
        case ["[", *inner, "]", "|", "min" | "max"]:
            return all(_is_number(one, depth + 1) for one in split(inner, (",",)))
        case [*_, "|", "length" | "count" | "int" | "round" | "float"]:
            return True
    return False


def _is_half(word: str) -> bool:
    """Whether a text could be a half of an attribute's name, or what stands around one."""
    text = word.strip("\"'")
    return text.startswith("__") or text.endswith("__") or text == "_"


def _is_compared(words: list[str], i: int) -> bool:
    """Whether a text only asks something of another one, or is the key of an item, and is not part of a value."""
    before, after = words[i - 1 : i], words[i + 1 : i + 2]
    if before in (["="], ["in"]) or after in (["="], ["!"]):
        return words[i - 2 : i - 1] in (["="], ["!"]) or before == ["in"] or words[i + 2 : i + 3] == ["="]
    if before == ["("]:
        return words[i - 3 : i - 2] == ["."] and words[i - 2] in _COMPARES
    is_item = before == ["["] and after == ["]"]
    return is_item and i > 1 and (words[i - 2] in CLOSE or is_name(words[i - 2]))


def made_names(pieces: Collection[list[str]]) -> set[str] | None:
    """Variables, loop variables and parameters of macros that may be put together of texts; None where they are too
    many in a chain.
    """
    made: set[str] = set(_GIVEN)
    parameters: dict[str, list[str]] = {}
    for words in pieces:
        match words:
            case ["macro", str() as name, "(", *rest]:
                parameters[name] = [one[0] for one in split(within(["(", *rest], 0), (",",)) if one]
                made.add(name)  # what it gives is a text
            case ["call", "(", *rest]:
                made |= {word for word in _first_bracket(rest) if is_name(word)}
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
    texts = (i for i, word in enumerate(words) if word[0] in QUOTES and "_" in word)
    return any(not _is_compared(words, i) for i in texts) or any(_HELD + word in made for word in words)


def _first_bracket(words: list[str]) -> list[str]:
    return words[: words.index(")")] if ")" in words else words


def _bound(words: list[str], made: set[str], parameters: dict[str, list[str]]) -> set[str]:
    """The names that a piece of code gives such a text to."""
    found: set[str] = set()
    mark = {"set": "=", "with": "=", "for": "in"}.get(words[0] if words else "")
    if mark in words:
        bound, value = words[1 : words.index(mark)], words[words.index(mark) + 1 :]
        names = {"".join(bound)} if bound[1:2] == ["."] else {word for word in bound if is_name(word)}
        if _is_number(value):
            return found
        if "recursive" in value:  # it may be given anything
            found |= names
        if _makes(value, made) or (mark == "in" and _HELD + "".join(value) in made and _TEXT + value[0] in made):
            found |= names
        elif _holds(value, made):
            found |= {_HELD + name for name in names} | {_TEXT + name for name in names if value[0][0] in QUOTES}
    for i, (before, word) in enumerate(pairwise(words)):
        called = word == "(" and before in parameters and (not i or words[i - 1] != "macro")
        if called:
            found |= _given(within(words, i + 1), parameters[before], made)
    if words[:1] == ["macro"]:
        found |= _given(words[3:-1], [], made)
    return found


def _given(arguments: list[str], names: list[str], made: set[str]) -> set[str]:
    """The parameters of a macro that are made, by what it is called with, or by what they are without that."""
    found: set[str] = set()
    for i, one in enumerate(split(arguments, (",",))):
        name, value = (one[0], one[2:]) if one[1:2] == ["="] and one[2:3] != ["="] else ("".join(names[i : i + 1]), one)
        if name and _makes(value, made):
            found.add(name)
        elif name and _holds(value, made):
            found |= {_HELD + name, _TEXT + name}
    return found
