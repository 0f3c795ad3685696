"""Whether a file that is no whole pickle names something to import or call before its unpickler comes to the break.

An unpickler does what the opcodes say as it meets them, so that a pickle which ends in nonsense has run by then. Bytes
that are no pickle at all, such as those of weights, end at one of the first few opcodes. What is called has to be
named: by GLOBAL and INST, whose module and name are two lines of text, or by STACK_GLOBAL, for which texts were pushed.

Source: CPython's ``pickletools``.
"""

from __future__ import annotations

import pickletools
import re
from typing import TYPE_CHECKING

from ckptconv.errors import CkptconvError, CorruptFileError
from ckptconv.formats.torch.pickle import PickleStream
from ckptconv.io.limits import MAX_NAME

if TYPE_CHECKING:
    from ckptconv.io.source import Source

MOST_OPCODES = 1_000_000
"""Opcodes that are stepped over; what has more before it breaks counts as naming something."""

_NAMES = re.compile(rb"[^\W\d][\w.]*\r?\n[^\W\d][\w.]*\r?\n")
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_GLOBALS, _STACK_GLOBAL = b"ci", 0x93
_TEXTS = b"SVTUXBC\x8c\x8d"
_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4, pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}  # fmt: skip
"""Bytes of the length that an argument begins with."""

_PIECE = 4096


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
            _step(stream, code)
    except CkptconvError:
        return False
    return True


def _step(stream: PickleStream, code: int) -> None:
    """Pass over an opcode's argument. Raises CorruptFileError where there is none such, and where it is cut short."""
    opcode = _OPCODES.get(chr(code))
    if opcode is None:
        raise CorruptFileError(f"{code:#x} is no opcode of a pickle")
    if opcode.arg is None:
        return
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        while b"\n" not in (piece := stream.take(min(_PIECE, max(stream.left, 1)))):
            continue
        stream.position -= len(piece) - piece.index(b"\n") - 1
    elif opcode.arg.n in _WIDTHS:
        stream.skip(int.from_bytes(stream.take(_WIDTHS[opcode.arg.n]), "little"))
    else:
        stream.skip(opcode.arg.n)
