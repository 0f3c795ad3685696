"""A pickle's bytes, and the opcodes that push plain values."""

from __future__ import annotations

import re
from struct import unpack_from
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError
from ckptconv.formats.torch.pickle.values import Budget, Elided, Value, python2_string
from ckptconv.io.limits import MAX_INT_DIGITS

if TYPE_CHECKING:
    from collections.abc import Sequence


class Program:
    """The bytes, the position in them, and the stack. `elided` are the runs that `PickleStream.elided` left out."""

    def __init__(self, data: bytes, elided: Sequence[Elided] = ()) -> None:
        self._data = data
        self._elided = elided
        self._size = len(data)
        self._pos = 0
        self._stack: list[Value] = []
        self._marks: list[list[Value]] = []
        self._protocol = 0
        self._charge = Budget(len(data)).take

    def _bad(self, why: str) -> CorruptFileError:
        return CorruptFileError(f"the pickle cannot be followed at byte {self._pos}: {why}")

    def _take(self, count: int) -> bytes:
        end = self._pos + count
        if count < 0 or end > self._size:
            raise self._bad(f"{count} bytes are asked for, {self._size - self._pos} are left")
        piece = self._data[self._pos : end]
        self._pos = end
        return piece

    def _line(self) -> bytes:
        end = self._data.find(b"\n", self._pos)
        if end < 0:
            raise self._bad("a line has no end")
        piece = self._data[self._pos : end]
        self._pos = end + 1
        return piece

    def _uint(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _decimal(self, text: bytes, base: int = 10) -> int:
        if len(text) > MAX_INT_DIGITS:
            raise self._bad("an int has too many decimal digits")
        return int(text, base)

    def _pop_mark(self) -> list[Value]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _op_PROTO(self) -> None:
        self._protocol = self._uint(1)
        if self._protocol > 5:
            raise self._bad(f"protocol {self._protocol} is not known")

    def _op_FRAME(self) -> None:
        left_out = sum(run.span.length + 4 for run in self._elided)  # up to 8 bytes of length became 4 of index
        if self._uint(8) > self._size - self._pos + left_out:
            raise self._bad("a frame is longer than the pickle")

    # Plain values

    def _op_NONE(self) -> None:
        self._stack.append(None)

    def _op_NEWTRUE(self) -> None:
        self._stack.append(True)

    def _op_NEWFALSE(self) -> None:
        self._stack.append(False)

    def _op_INT(self) -> None:
        text = self._line()
        # 010 is 8 to _pickle.c, and invalid to pickle.py
        self._stack.append({b"00": False, b"01": True}[text] if text in (b"00", b"01") else self._decimal(text, 0))

    def _op_LONG(self) -> None:
        self._stack.append(self._decimal(self._line().removesuffix(b"L"), 0))

    def _op_BININT(self) -> None:
        self._stack.append(int.from_bytes(self._take(4), "little", signed=True))

    def _op_BININT2(self) -> None:
        self._stack.append(self._uint(2))

    def _op_LONG1(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._uint(1)), "little", signed=True))

    def _op_LONG4(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._uint(4)), "little", signed=True))

    def _op_FLOAT(self) -> None:
        self._stack.append(float(self._line()))

    def _op_BINFLOAT(self) -> None:
        self._stack.append(unpack_from(">d", self._take(8))[0])

    def _text(self, raw: bytes) -> None:
        self._stack.append(str(raw, "utf-8", "surrogatepass"))

    def _op_UNICODE(self) -> None:
        self._stack.append(str(self._line(), "raw-unicode-escape"))

    def _op_BINUNICODE(self) -> None:
        start = self._pos + 4
        end = start + int.from_bytes(self._data[self._pos : start], "little")
        if end > self._size:
            raise self._bad("a string is longer than the pickle")
        self._pos = end
        self._stack.append(str(self._data[start:end], "utf-8", "surrogatepass"))

    def _op_SHORT_BINUNICODE(self) -> None:
        self._text(self._take(self._uint(1)))

    def _op_BINUNICODE8(self) -> None:
        self._text(self._take(self._uint(8)))

    def _python2_string(self, raw: bytes) -> None:
        self._stack.append(python2_string(raw))

    def _op_STRING(self) -> None:
        line = self._line().strip()
        if len(line) < 2 or line[:1] not in b"\"'" or line[:1] != line[-1:]:
            raise self._bad("a string is not in quotes")
        self._python2_string(_ESCAPE.sub(_unescaped, line[1:-1]))

    def _op_BINSTRING(self) -> None:
        self._python2_string(self._take(self._uint(4)))

    def _op_SHORT_BINSTRING(self) -> None:
        self._python2_string(self._take(self._uint(1)))

    def _op_BINBYTES(self) -> None:
        self._stack.append(self._take(self._uint(4)))

    def _op_SHORT_BINBYTES(self) -> None:
        self._stack.append(self._take(self._uint(1)))

    def _op_BINBYTES8(self) -> None:
        self._stack.append(self._take(self._uint(8)))

    def _op_ELIDED(self) -> None:
        index = self._uint(4)
        if index >= len(self._elided):
            raise self._bad("opcode b'\\xff' is none")
        self._stack.append(self._elided[index])

    def _op_BYTEARRAY8(self) -> None:
        self._stack.append(bytearray(self._take(self._uint(8))))


_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_LETTERS = dict(zip(b"abfnrtv\\'\"", b"\a\b\f\n\r\t\v\\'\"", strict=True))


def _unescaped(found: re.Match[bytes]) -> bytes:
    r"""An escape in a bytes literal, decoded. An unknown one stays as it is, as in Python; ``\x`` needs digits."""
    text = found[1]
    if text[0] in b"01234567":
        return bytes([int(text, 8) & 0xFF])
    if len(text) == 3:
        return bytes([int(text[1:], 16)])
    if text == b"x":
        raise ValueError("an escape has no digits")
    return bytes([_LETTERS[text[0]]]) if text[0] in _LETTERS else found[0]
