"""Reads TOML that is not trusted: texts that would cost Python's own reader minutes and gigabytes are refused first."""

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
"""Strings and comments, each matched once: one without an end ends with its line, or with the text."""


def loads(text: str) -> dict[str, Any]:
    """Parse a document. Raises LimitError, and ValueError with what is not TOML."""
    if any(line.count(".") > MAX_DOTS for line in _QUOTED.sub("", text).split("\n")):
        raise LimitError(f"a key of more than {MAX_DOTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise LimitError("nested too deeply") from error
