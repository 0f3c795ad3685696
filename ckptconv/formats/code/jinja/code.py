"""The expressions and statements of a template, found as Jinja's lexer finds them, and their tokens.

    {{ expression }}   {% statement %}   {# comment #}   {% raw %} text {% endraw %}

A closing mark inside a string or inside brackets does not end the code. Source: jinja2/lexer.py.
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
    """The pieces of code, each with its marks. One without a closing mark, which Jinja refuses, extends to the end of
    the text.
    """
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
            at = _end_of_code(text, opening.end(), _CLOSING[opening[0]])
            yield text[start:at]


def tokens_of(code: str) -> list[str]:
    """The tokens between the outer marks: strings with their quotes, names, numbers, and single punctuation marks."""
    inner = code[2:-2] if code.endswith(("}}", "%}")) else code[2:]
    return [_unescaped(token) if "\\" in token else token for token in _TOKEN.findall(inner.strip("-+"))]


def _unescaped(token: str) -> str:
    r"""A string with its escapes (``'\x5f'``) replaced as by Jinja's parser, except those for newlines and tabs."""
    return _ESCAPED.sub(_character, token)


def _character(escape: re.Match[str]) -> str:
    code, octal, name = escape[1] or escape[2] or escape[3], escape[4], escape[5]
    if name:
        from unicodedata import lookup

        with suppress(KeyError):  # Jinja refuses an unknown name
            return lookup(name)
        return escape[0]
    number = int(code, 16) if code else int(octal, 8) if octal else -1
    if 0 <= number <= 0x10FFFF:
        return chr(number)
    return "" if escape[0] == "\\\n" else escape[0]


def _end_of_code(text: str, start: int, closing: str) -> int:
    """The position after the closing mark that is neither inside a string nor inside brackets."""
    depth = 0
    for mark in _MARK.finditer(text, start):
        if mark[0] in ("(", "[", "{"):
            depth += 1
        elif depth and mark[0] in (")", "]", "}"):
            depth -= 1
        elif not depth and text.startswith(closing, mark.start()):
            return mark.start() + len(closing)
    return len(text)
