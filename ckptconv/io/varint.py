"""Varints, as protobuf writes them: 7 bits a byte, the lowest first, the top bit set on all but the last."""

from __future__ import annotations


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The varint at `at`, and where it ends. Raises IndexError past the end, OverflowError over 64 bits."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
        shift += 7
        if shift > 63:
            break
    raise OverflowError("a number has more than 64 bits")
