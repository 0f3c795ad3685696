"""Chat templates that are attacks. A template is a program of Jinja's, and who chats with a model renders it.

llama.cpp's own engine has none of Python's objects, and transformers renders in a sandbox, which refuses their
internals. A Jinja without a sandbox, as llama-cpp-python had it before 0.2.72 (CVE-2024-34359), goes from any object to
any other: ``{{ ''.__class__.__mro__[1].__subclasses__() }}``. No template has an honest use for that, nor for
attributes that are named by a value, or by a text in pieces. What is neither is Jinja's business and stays text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program

if TYPE_CHECKING:
    from collections.abc import Iterator

_RENDERS = "jinja2.Template.render"

_OPENING = re.compile(r"\{\{|\{%|\{#")
_CLOSING = {"{{": "}}", "{%": "%}"}
_RAW = re.compile(r"\{%[-+]?\s*raw\s*-?%\}")
_END_OF_RAW = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}")
_MARK = re.compile(r"""'(?:[^'\\]|\\.)*+'?|"(?:[^"\\]|\\.)*+"?|[(\[{)\]}%]""", re.DOTALL)
_REACHES = re.compile(
    r"""(?<!\w)(__\w+__)(?!\w)               # an attribute by its name, also as that of an argument
      | ["'](__\w*|\w*__)["']             # a half of one
      | \|\s*(attr)\b                      # one by a value
      | \b(?:map|select|reject)\s*\(\s*["'](attr)["']
      | (\\x5f|\\u0{0,4}5f|\\137|\\N\{)     # an underscore that is not to be seen
      | ["'](_)["']\s*[~*+]               # or one by itself, to be put together
      | [~*+]\s*["'](_)["']
      | (%c)""",
    re.VERBOSE | re.IGNORECASE,
)


def program_in(where: str, text: str) -> Program | None:
    """The template, if it reaches for Python's internals, with the names that it reaches for; `where` it stands."""
    names = dict.fromkeys(next(filter(None, found)) for code in _code(text) for found in _REACHES.findall(code))
    return Program(where, Opaque(_RENDERS, "called", tuple(names)), "a Jinja without a sandbox") if names else None


def _code(text: str) -> Iterator[str]:
    """The expressions and statements of a template, as Jinja's lexer finds them. What has no end goes to the text's:
    Jinja refuses it, and it is looked at once.
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
            at = _end(text, opening.end(), _CLOSING[opening[0]])
            yield text[start:at]


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
