"""The expressions and statements of a template, as Jinja's lexer finds them, and what they consist of.

    {{ expression }}   {% statement %}   {# comment #}   {% raw %} text {% endraw %}

Within a text in quotes, or within brackets, a mark ends nothing. Source: jinja2/lexer.py.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENING = re.compile(r"\{\{|\{%|\{#")
_CLOSING = {"{{": "}}", "{%": "%}"}
_RAW = re.compile(r"\{%[-+]?\s*raw\s*-?%\}")
_END_OF_RAW = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}")
_MARK = re.compile(r"""'(?:[^'\\]|\\.)*+'?|"(?:[^"\\]|\\.)*+"?|[(\[{)\]}%]""", re.DOTALL)
_TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*+'?|"(?:[^"\\]|\\.)*+"?|\w+|[^\s\w]""", re.DOTALL)

_ESCAPED = re.compile(
    r"\\(?:\\|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|N\{([^{}]{1,100})\}|\n)"
)


def code_in(text: str) -> Iterator[str]:
    """Each with its marks. What has no end goes to the text's: Jinja refuses it, and it is looked at once."""
    at = 0
    while opening := _OPENING.search(text, at):
        start = opening.start()
        if opening[0] == "{#":
            end = text.find("#}", opening.end())
            at = end if end >= 0 else len(text)
        elif raw := _RAW.match(text, start):
            end_of_raw = _END_OF_RAW.search(text, raw.end())
            at = end_of_raw.end() if end_of_raw else len(text)
        else:
            at = _end(text, opening.end(), _CLOSING[opening[0]])
            yield text[start:at]


def tokens_of(code: str) -> list[str]:
    """Its texts in quotes, names and numbers, and marks of one character, without those around it."""
    inner = code[2:-2] if code.endswith(("}}", "%}")) else code[2:]
    return [_undisguised(token) if "\\" in token else token for token in _TOKEN.findall(inner.strip("-+"))]


def _undisguised(token: str) -> str:
    r"""A text with the letters that it stands for, ``'\x5f'``, as Jinja's parser takes it; lines and tabs stay."""
    return _ESCAPED.sub(_letter, token)


def _letter(found: re.Match[str]) -> str:
    code, octal, name = found[1] or found[2] or found[3], found[4], found[5]
    if name:
        from unicodedata import lookup

        with suppress(KeyError):  # Jinja refuses it
            return lookup(name)
        return found[0]
    number = int(code, 16) if code else int(octal, 8) if octal else -1
    return chr(number) if 0 <= number <= 0x10FFFF else "" if found[0] == "\\\n" else found[0]


def _end(text: str, start: int, closing: str) -> int:
    """Where code ends: a mark within a text, or within brackets, does not end it."""
    depth = 0
    for mark in _MARK.finditer(text, start):
        if mark[0] in ("(", "[", "{"):
            depth += 1
        elif depth and mark[0] in (")", "]", "}"):
            depth -= 1
        elif not depth and text.startswith(closing, mark.start()):
            return mark.start() + len(closing)
    return len(text)
