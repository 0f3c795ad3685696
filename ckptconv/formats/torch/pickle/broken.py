"""Whether a file that is not a whole pickle names something to import or call before its unpickler comes to the break.

An unpickler does what the opcodes say as it meets them, so that a pickle which ends in nonsense has run by then. Bytes
that are no pickle at all, such as those of weights, end at one of the first few opcodes. What is called has to be
named: by GLOBAL and INST, whose module and name are two lines of text, or by STACK_GLOBAL, for which texts were pushed.

Source: CPython's ``pickletools``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.errors import CkptconvError
from ckptconv.formats.torch.pickle import PickleStream
from ckptconv.io.limits import MAX_NAME

if TYPE_CHECKING:
    from ckptconv.io.source import Source

MOST_OPCODES = 1_000_000
"""Opcodes that are stepped over; what has more before it breaks counts as naming something."""

_NAMES = re.compile(rb"[^\W\d][\w.]*\r?\n[^\W\d][\w.]*\r?\n")
_GLOBALS, _STACK_GLOBAL = b"ci", 0x93
_TEXTS = b"SVTUXBC\x8c\x8d"


def names_something(source: Source) -> bool:
    """Whether it does. Steps over the opcodes; of long runs of bytes nothing is read."""
    stream, texts = PickleStream(source, 0, source.size), 0
    try:
        for _ in range(MOST_OPCODES):
            if not stream.left:
                return False
            (code,) = stream.take(1)
            if code in _GLOBALS:
                return _NAMES.match(stream.take(min(2 * MAX_NAME, stream.left))) is not None
            if code == _STACK_GLOBAL:
                return texts > 0
            texts += code in _TEXTS
            stream.skip_argument(code)
    except CkptconvError:
        return False
    return True
