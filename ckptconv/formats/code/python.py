"""Parsing text that some library would evaluate as Python. Parsing runs nothing.

That library may run under another release of Python, or with a deeper stack. So text that does not parse here is not
harmless for that reason: since 3.12 an f-string may reuse its own quotes inside (``f"{f("x")}"``), and what is nested
too deeply for one parser is not for another.
"""

from __future__ import annotations

import ast
import re
import warnings
from itertools import islice
from typing import Literal

from ckptconv.errors import LimitError

MAX_TOKENS = 200_000
"""Words and punctuation marks in a text: each makes a node or two of 250 bytes. The names of 20,000 classes have
120,000.
"""

_TOKEN = re.compile(r"\w+|[^\w\s]")
_F_STRING = re.compile(r"(?<!\w)(?:[ft]r?|r[ft])[\"']", re.IGNORECASE)


def parse_python(text: str, mode: Literal["eval", "exec"] = "eval") -> ast.AST | None:
    """The syntax tree of a text; None if it is not Python in any release.

    Raises LimitError if that cannot be decided: the text is too long, nested too deeply, or has f-strings that this
    release does not parse.
    """
    if next(islice(_TOKEN.finditer(text), MAX_TOKENS, None), None) is not None:
        raise LimitError(f"it has more than {MAX_TOKENS:,} words")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about the text would not help the user
            return ast.parse(text, mode=mode)
    except (RecursionError, MemoryError) as error:
        raise LimitError("it is nested too deeply") from error
    except (SyntaxError, ValueError) as error:
        if _F_STRING.search(text):
            raise LimitError("it has strings with code in them") from error
        return None
