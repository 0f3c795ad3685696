"""TOML of strangers: what would cost Python's own reader minutes and gigabytes is refused before it reads it."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from ckptconv.errors import LimitError

MAX_DOTS = 40
"""Dots of one line outside strings and comments: the standard parser takes quadratic time and memory for the parts of a
key, gigabytes for one of 60 kB.
"""

_QUOTED = re.compile(
    r'''"""(?:(?!""")(?:[^\\]|\\.))*+(?:""")?|"(?:[^"\\\n]|\\.)*+"?|#[^\n]*+''' + r"""|'''.*?(?:'''|\Z)|'[^'\n]*+'?""",
    re.DOTALL,
)
"""Strings and comments, each looked at once: what has no end goes to that of its line, or of the text."""


def loads(text: str) -> dict[str, Any]:
    """The document that a text is. Raises LimitError, and ValueError, which says what is no TOML."""
    if any(line.count(".") > MAX_DOTS for line in _QUOTED.sub("", text).split("\n")):
        raise LimitError(f"a key of more than {MAX_DOTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise LimitError("nested too deeply") from error
