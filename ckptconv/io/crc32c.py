"""CRC-32C (Castagnoli's polynomial P), which TensorFlow and TensorStore record.

A table in Python does some 10 MB a second, and is used for few bytes. Many go through numpy at 2.6 GB a second (on one
core of 2026, without the interpreter lock for most of it), by a multiple of P with few terms:

    x^5685 + x^1362 + x^426 + 1 = 0  (mod P), and so to any power of 2: x^(64 * 5685) + x^(64 * 1362) + …

With x^(64 * 5685) replaced by the others, a word of 64 bits is the same as that word 4323, 5259 and 5685 places
further on. So each word is three XORs of earlier ones with itself, whole blocks at a time, and only the last 5685
matter in the end; of these the same of bytes leaves 5685 bytes, whose bits are looked up. Of the multiples with four
terms, which begin at degree 5275, it is the first whose places all lie far off: that is how large a block may be.

Sources: RFC 3720, 12.1; Koopman, "32-Bit Cyclic Redundancy Codes for Internet Applications" (2002), for that degree.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


_POLYNOMIAL = 0x82F63B78
"""P with its bits in reverse order."""

_FULL = 0xFFFFFFFF

_PLACES = (4323, 5259, 5685)
"""How many words further on a word is added again."""

_BLOCK, _WINDOW = _PLACES[0], _PLACES[-1]

MANY = 1 << 17
"""For this many bytes and more numpy is faster than the table, even where it has yet to be imported."""

_FEW = 512
"""Bytes up to which the table is faster than numpy."""

_PIECE = 1 << 18
"""Bytes at a time, so that they and their copy stay in the cache."""


def _make_table() -> list[int]:
    """The CRC-32C of each byte."""
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _make_table()


def crc32c(data: bytes | memoryview, value: int = 0) -> int:
    """The CRC-32C, continuing from `value`."""
    if len(data) >= MANY:
        running = Crc32c(value)
        running.update(data)
        return running.value
    return _by_table(data, value ^ _FULL) ^ _FULL


def _by_table(data: bytes | memoryview, state: int) -> int:
    for byte in data:
        state = _TABLE[(state ^ byte) & 0xFF] ^ state >> 8
    return state


class Crc32c:
    """The CRC-32C of bytes that come in pieces, continuing from `value`."""

    def __init__(self, value: int = 0) -> None:
        self._start = value ^ _FULL
        self._window: Array | None = None
        self._rest = b""

    def update(self, data: bytes | memoryview) -> None:
        """Continue with these bytes, in constant memory."""
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            if self._rest:
                piece = self._rest + bytes(piece)
            whole = len(piece) & ~7 if self._window is not None or len(piece) > _FEW else 0
            self._rest = bytes(piece[whole:])
            if whole:
                self._update_words(piece[:whole])

    def _update_words(self, data: bytes | memoryview) -> None:
        import numpy as np

        words = np.empty(_WINDOW + len(data) // 8, "<u8")
        words[_WINDOW:] = np.frombuffer(data, "<u8")
        if self._window is None:
            words[:_WINDOW] = 0
            words[_WINDOW] ^= np.uint64(self._start)  # a state is XORed into the first bytes that follow it
        else:
            words[:_WINDOW] = self._window
        self._window = _folded(words)

    @property
    def value(self) -> int:
        """The CRC-32C of all bytes so far."""
        if self._window is None:
            return _by_table(self._rest, self._start) ^ _FULL
        import numpy as np

        last = np.zeros(_WINDOW + 8 * _WINDOW, np.uint8)
        last[_WINDOW:] = _unfolded(self._window).view(np.uint8)
        bits = np.unpackbits(_unfolded(_folded(last)), bitorder="little")
        return _by_table(self._rest, int(np.bitwise_xor.reduce(bits * _bits()))) ^ _FULL


def _folded(values: Array) -> Array:
    """The last `_WINDOW` of the values, with all earlier ones added to them; overwrites `values`."""
    for start in range(_WINDOW, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        for place in _PLACES:
            block ^= values[start - place : start - place + len(block)]
    return values[len(values) - _WINDOW :].copy()


def _unfolded(last: Array) -> Array:
    """The last values without what they add to each other, since no value follows them."""
    found = last.copy()
    for place in _PLACES[:-1]:
        found[place:] ^= last[:-place]
    return found


@cache
def _bits() -> Array:
    """The state that each bit of the last `_WINDOW` bytes leads to."""
    import numpy as np

    states, state = np.empty(8 * _WINDOW, np.uint32), _POLYNOMIAL
    for i in range(len(states) - 1, -1, -1):
        states[i] = state
        state = state >> 1 ^ (_POLYNOMIAL if state & 1 else 0)
    return states
