r"""Escape sequences that can disguise a name in YAML: ``"o\x73.system"``, ``"o\<newline>  s.system"``.

Tags can be disguised by percent-encoding too (``o%73.system``), which callers undo with `urllib.parse.unquote`.
"""

from __future__ import annotations

import re

_ESCAPED = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(00[01][0-9a-fA-F]{5})|\n[ \t]*)")


def undisguised(text: str) -> str:
    """A YAML text with escape sequences replaced by the characters that they stand for."""
    return _ESCAPED.sub(_character, text)


def _character(escape: re.Match[str]) -> str:
    digits = escape[1] or escape[2] or escape[3]
    code = int(digits, 16) if digits else -1
    return chr(code) if 0 <= code <= 0x10FFFF else ""
