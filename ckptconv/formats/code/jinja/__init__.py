"""Chat templates that attack. A chat template is a Jinja program, which is rendered for each chat with the model.

llama.cpp's own engine has no Python objects, and transformers renders in a sandbox, which refuses their internals.
Jinja without a sandbox, as in llama-cpp-python before 0.2.72 (CVE-2024-34359), lets a template get from any object to
any other: ``{{ ''.__class__.__mro__[1].__subclasses__() }}``. No honest template does that, nor takes an attribute
whose name is a value or is pieced together from strings. Templates without either are left alone.

    code  words     the expressions and statements of a template, their tokens, and what is in brackets
    reach           what the code reaches for
    internal        attributes that lead to Python's internals
    made            variables that may hold the name of one
"""

from __future__ import annotations

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.formats.code.jinja.code import code_in
from ckptconv.formats.code.jinja.reach import reached

_RENDERS = "jinja2.Template.render"


def program_in(where: str, text: str) -> Program | None:
    """A `Program` with the names that the template at `where` reaches for; None if it is harmless."""
    names = reached([*code_in(text)])
    return Program(where, Opaque(_RENDERS, "called", tuple(names)), "a Jinja without a sandbox") if names else None
