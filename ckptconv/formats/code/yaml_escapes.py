r"""How texts in YAML may be disguised: ``"o\x73.system"``, ``"o\<newline>  s.system"``; and in tags ``o%73.system``."""

from __future__ import annotations

import re

_ESCAPED = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(00[01][0-9a-fA-F]{5})|\n[ \t]*)")


def undisguised(text: str) -> str:
    """A text of YAML with what stands for other letters replaced by these."""
    return _ESCAPED.sub(_letter, text)


def _letter(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    code = int(digits, 16) if digits else -1
    return chr(code) if 0 <= code <= 0x10FFFF else ""
