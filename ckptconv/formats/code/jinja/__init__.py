"""Chat templates that are attacks. A template is a program of Jinja's, and who chats with a model renders it.

llama.cpp's own engine has none of Python's objects, and transformers renders in a sandbox, which refuses their
internals. A Jinja without a sandbox, as llama-cpp-python had it before 0.2.72 (CVE-2024-34359), goes from any object to
any other: ``{{ ''.__class__.__mro__[1].__subclasses__() }}``. No template has an honest use for that, nor for
attributes that are named by a value, or by a text in pieces. What is neither is Jinja's business and stays text.

    code  words     the expressions and statements of a template, their tokens, and what is in brackets
    reach           what they reach for
    internal        attributes that lead to Python
    made            variables that may hold their names
"""

from __future__ import annotations

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.formats.code.jinja.code import code_in
from ckptconv.formats.code.jinja.reach import reached

_RENDERS = "jinja2.Template.render"


def program_in(where: str, text: str) -> Program | None:
    """The template, if it reaches for Python's internals, with the names that it reaches for; `where` it stands."""
    names = reached([*code_in(text)])
    return Program(where, Opaque(_RENDERS, "called", tuple(names)), "a Jinja without a sandbox") if names else None
