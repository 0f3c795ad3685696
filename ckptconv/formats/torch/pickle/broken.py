"""Whether a file that is not a complete pickle names something to import or call before unpickling fails.

An unpickler executes opcodes as it reads them, so a pickle that ends in garbage has already run. Bytes that are no
pickle at all, such as weights, fail at one of the first opcodes. Whatever is called has to be named: by GLOBAL or INST,
whose module and name are two lines of text, or by STACK_GLOBAL, for which strings have been pushed.

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

MAX_OPCODES = 1_000_000
"""Opcodes that are scanned; a file with more before it fails counts as naming something."""

_NAMES = re.compile(rb"[^\W\d][\w.]*\r?\n[^\W\d][\w.]*\r?\n")
_GLOBALS, _STACK_GLOBAL = b"ci", 0x93
_TEXTS = b"SVTUXBC\x8c\x8d"


def names_something(source: Source) -> bool:
    """Whether the file names something to import or call. Scans the opcodes, without reading long runs of bytes."""
    stream, texts = PickleStream(source, 0, source.size), 0
    try:
        for _ in range(MAX_OPCODES):
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
