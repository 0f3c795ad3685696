"""Texts that somebody evaluates as Python, as trees: Python's parser reads them, and runs nothing.

Whoever evaluates a text may have another release of Python, and more room on its stack. So a text that cannot be read
here is not harmless yet: strings with code in them may have quotes in that since 3.12 (``f"{f("x")}"``), and what is
nested too deeply for the one is not for the other.
"""

from __future__ import annotations

import ast
import re
import warnings
from itertools import islice
from typing import Literal

from ckptconv.errors import LimitError

MOST_WORDS = 200_000
"""Words and marks of a text: each makes a node or two, of 250 bytes. Names of 20,000 classes have 120,000."""

_WORD = re.compile(r"\w+|[^\w\s]")
_WITH_CODE = re.compile(r"(?<!\w)(?:[ft]r?|r[ft])[\"']", re.IGNORECASE)


def tree_of(text: str, mode: Literal["eval", "exec"] = "eval") -> ast.AST | None:
    """The text as a tree; None where it is no Python of any release.

    Raises LimitError where that cannot be said: of what is too long, or nested too deeply.
    """
    if next(islice(_WORD.finditer(text), MOST_WORDS, None), None) is not None:
        raise LimitError(f"it has more than {MOST_WORDS:,} words")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about a stranger's text is none of the user's business
            return ast.parse(text, mode=mode)
    except (RecursionError, MemoryError) as error:
        raise LimitError("it is nested too deeply") from error
    except (SyntaxError, ValueError) as error:
        if _WITH_CODE.search(text):
            raise LimitError("it has strings with code in them") from error
        return None
