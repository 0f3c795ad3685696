r"""Variables, loop variables and macro parameters whose values may be strings that are built from pieces ("made").

A string is made by joining others with ``~``, ``+``, ``%`` and ``*``, by filters and methods; by taking a part of a
string in the template, or of a list of these; by a block or a macro, whose result is a string; or it comes from the
model's own files. Not made are sums of numbers, lengths and loop indices, nor the result of asking something of a
string (``x.split('__')``).
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from ckptconv.formats.code.jinja.words import CLOSE, MAX_DEPTH, QUOTES, is_name, split, within

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_ROUNDS = 8
"""Passes over the template: how long a chain of variables, each made from the one before, can be in reverse order."""

COUNTS = frozenset(["length", "count", "int", "abs", "first", "last", "min", "max", "round", "float", "default", "d"])
"""Filters with which an index may be computed."""

_NOT_MAKING = COUNTS | {
    "list", "items", "dictsort", "sort", "unique", "select", "reject", "selectattr", "rejectattr", "map", "groupby",
    "batch", "slice", "sum",
}  # fmt: skip
"""Filters that do not make a string. All others may make one from anything: ``lipsum|trim``."""

ASKS = frozenset(["get", "items", "keys", "values", "index", "find", "rfind", "count"])
"""Methods that do not make a string."""

_COMPARES = frozenset(["split", "rsplit", "startswith", "endswith", "strip", "lstrip", "rstrip", *ASKS])
"""Methods whose arguments do not end up in the result."""

FROM_FILES = re.compile(r"\w+_tokens?(_\w+)?")
"""Variables whose value comes from the model's files, and so may be the attacker's: ``bos_token``."""

_OPERATORS = frozenset(["+", "-", "*", "/", "%"])

_HELD, _TEXT = "held ", "text "
"""Prefixes of variable names in the set of made names: a variable that holds strings of the template, and one that is
such a string.
"""

_IMPLICIT = ("kwargs", "varargs", "caller", "self", "super")
"""Names that a macro gets without declaring them, and objects that give the text of blocks."""


def variable_at(words: list[str], i: int) -> tuple[str, str]:
    """The variable at `i`, and the same with its attribute: ``ns``, ``ns.index``."""
    return words[i], "".join(words[i : i + 3])


def is_joined(word: str, before: str, after: str) -> bool:
    """Whether a string is joined with another, repeated, or filled in."""
    if word[0] not in QUOTES:
        return word == "~"
    return before in ("+", "*", "%") or after in ("+", "*", "%") or (after[:1] in QUOTES and after != "")


def is_pieced(words: list[str], made: set[str]) -> bool:
    """Whether a part is taken from a variable that holds strings of the template, or several of these are joined."""
    held = [i for i, word in enumerate(words) if _HELD + word in made and (not i or words[i - 1] not in (".", "|"))]
    joins = not {"+", "*", "%", "|"}.isdisjoint(words)
    return any(joins or words[i + 1 : i + 2] == ["."] or _is_cut(words, i + 1) for i in held)


def _is_cut(words: list[str], at: int) -> bool:
    """Whether a slice is taken at `at`, or an item of an item."""
    if words[at : at + 1] != ["["]:
        return False
    inner = within(words, at)
    end = at + len(inner) + 2
    return ":" in inner or words[end : end + 1] in (["["], ["."])


def _is_made_value(words: list[str], made: set[str]) -> bool:
    """Whether a value is, or holds, a made string. Unlike in the name of an item, some filters are harmless here."""
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if is_joined(word, before, after) or (word[0] in QUOTES and after in ("[", ".")):
            return True
        if word == "|" and after not in _NOT_MAKING:
            return True
        if word == "(" and i > 1 and words[i - 2] == "." and before not in _COMPARES:
            return True
        if word[0] in QUOTES and _is_half(word) and not _is_compared(words, i):
            return True
        if before not in (".", "|") and (FROM_FILES.fullmatch(word) or not made.isdisjoint(variable_at(words, i))):
            return True
    return is_pieced(words, made)


def _is_number(words: list[str], depth: int = 0) -> bool:
    """Whether a value is arithmetic on numbers, lengths and loop indices."""
    terms = split(words, _OPERATORS)
    return depth < MAX_DEPTH and all(not term or _is_count(term, depth) for term in terms) and any(terms)


def _is_count(words: list[str], depth: int) -> bool:
    match words:
        case [word]:
            return word.isdecimal()
        case ["range", "(", *rest]:
            return len(within(["(", *rest], 0)) == len(rest) - 1
        case ["loop", ".", str() as name]:
            return name.startswith(("index", "revindex", "length"))
        case ["[", *inner, "]", "|", "min" | "max"]:
            return all(_is_number(part, depth + 1) for part in split(inner, (",",)))
        case [*_, "|", "length" | "count" | "int" | "round" | "float"]:
            return True
    return False


def _is_half(word: str) -> bool:
    """Whether a string could be half of an internal attribute's name, or the underscores around one."""
    text = word.strip("\"'")
    return text.startswith("__") or text.endswith("__") or text == "_"


def _is_compared(words: list[str], i: int) -> bool:
    """Whether a string is only compared with another, or is the key of an item, and so is not part of a value."""
    before, after = words[i - 1 : i], words[i + 1 : i + 2]
    if before in (["="], ["in"]) or after in (["="], ["!"]):
        return words[i - 2 : i - 1] in (["="], ["!"]) or before == ["in"] or words[i + 2 : i + 3] == ["="]
    if before == ["("]:
        return words[i - 3 : i - 2] == ["."] and words[i - 2] in _COMPARES
    is_item = before == ["["] and after == ["]"]
    return is_item and i > 1 and (words[i - 2] in CLOSE or is_name(words[i - 2]))


def made_names(pieces: Collection[list[str]]) -> set[str] | None:
    """The variables, loop variables and macro parameters that may be made strings; None if a chain of these is too long
    to follow. Names with the prefixes `_HELD` and `_TEXT` are among them.
    """
    result: set[str] = set(_IMPLICIT)
    parameters: dict[str, list[str]] = {}
    for words in pieces:
        match words:
            case ["macro", str() as name, "(", *rest]:
                parameters[name] = [part[0] for part in split(within(["(", *rest], 0), (",",)) if part]
                result.add(name)  # its result is a string
            case ["call", "(", *rest]:
                result |= {word for word in _first_bracket(rest) if is_name(word)}
            case ["set", str() as name, *rest] if "=" not in rest:
                result.add(name)  # {% set x %}…{% endset %}
    for _ in range(MAX_ROUNDS):
        before = len(result)
        for words in pieces:
            result |= _bound(words, result, parameters)
        if len(result) == before:
            return result
    return None


def _holds(words: list[str], made: set[str]) -> bool:
    """Whether a value is, or contains, a string of the template with an underscore in it."""
    texts = (i for i, word in enumerate(words) if word[0] in QUOTES and "_" in word)
    return any(not _is_compared(words, i) for i in texts) or any(_HELD + word in made for word in words)


def _first_bracket(words: list[str]) -> list[str]:
    return words[: words.index(")")] if ")" in words else words


def _bound(words: list[str], made: set[str], parameters: dict[str, list[str]]) -> set[str]:
    """The names to which a piece of code binds a made string, or (with a prefix) a string of the template."""
    found: set[str] = set()
    mark = {"set": "=", "with": "=", "for": "in"}.get(words[0] if words else "")
    if mark in words:
        bound, value = words[1 : words.index(mark)], words[words.index(mark) + 1 :]
        names = {"".join(bound)} if bound[1:2] == ["."] else {word for word in bound if is_name(word)}
        if _is_number(value):
            return found
        if "recursive" in value:  # loop(…) may pass it anything
            found |= names
        if _is_made_value(value, made) or (
            mark == "in" and _HELD + "".join(value) in made and _TEXT + value[0] in made
        ):
            found |= names
        elif _holds(value, made):
            found |= {_HELD + name for name in names} | {_TEXT + name for name in names if value[0][0] in QUOTES}
    for i, (before, word) in enumerate(pairwise(words)):
        called = word == "(" and before in parameters and (not i or words[i - 1] != "macro")
        if called:
            found |= _bound_parameters(within(words, i + 1), parameters[before], made)
    if words[:1] == ["macro"]:
        found |= _bound_parameters(words[3:-1], [], made)
    return found


def _bound_parameters(arguments: list[str], names: list[str], made: set[str]) -> set[str]:
    """The macro parameters that get a made string, from the arguments of a call or from default values."""
    found: set[str] = set()
    for i, argument in enumerate(split(arguments, (",",))):
        if argument[1:2] == ["="] and argument[2:3] != ["="]:
            name, value = argument[0], argument[2:]
        else:
            name, value = "".join(names[i : i + 1]), argument
        if name and _is_made_value(value, made):
            found.add(name)
        elif name and _holds(value, made):
            found |= {_HELD + name, _TEXT + name}
    return found
