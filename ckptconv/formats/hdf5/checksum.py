"""The two checksums of HDF5: Bob Jenkins' lookup3 of metadata, Fletcher's of chunks.

Sources: Bob Jenkins' ``lookup3.c`` (public domain; its `hashlittle` with an initial value of 0); ``H5checksum.c`` of
the HDF5 library for the order of the bytes in Fletcher's.
"""

from __future__ import annotations

from struct import iter_unpack

_ALL = 0xFFFFFFFF
_BLOCK = 1 << 16
"""Words that are summed at once: the sum of so many, each times its place, fits into 64 bits."""


def lookup3(data: bytes) -> int:
    """The checksum of a piece of metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & _ALL
    if not data:
        return c
    whole = (len(data) - 1) // 12 * 12
    for x, y, z in iter_unpack("<3I", data[:whole]):
        a, b, c = a + x & _ALL, b + y & _ALL, c + z & _ALL
        a = (a - c & _ALL) ^ (c << 4 & _ALL | c >> 28)
        c = c + b & _ALL
        b = (b - a & _ALL) ^ (a << 6 & _ALL | a >> 26)
        a = a + c & _ALL
        c = (c - b & _ALL) ^ (b << 8 & _ALL | b >> 24)
        b = b + a & _ALL
        a = (a - c & _ALL) ^ (c << 16 & _ALL | c >> 16)
        c = c + b & _ALL
        b = (b - a & _ALL) ^ (a << 19 & _ALL | a >> 13)
        a = a + c & _ALL
        c = (c - b & _ALL) ^ (b << 4 & _ALL | b >> 28)
        b = b + a & _ALL
    x, y, z = next(iter_unpack("<3I", data[whole:].ljust(12, b"\0")))
    a, b, c = a + x & _ALL, b + y & _ALL, c + z & _ALL
    c = (c ^ b) - (b << 14 & _ALL | b >> 18) & _ALL
    a = (a ^ c) - (c << 11 & _ALL | c >> 21) & _ALL
    b = (b ^ a) - (a << 25 & _ALL | a >> 7) & _ALL
    c = (c ^ b) - (b << 16 & _ALL | b >> 16) & _ALL
    a = (a ^ c) - (c << 4 & _ALL | c >> 28) & _ALL
    b = (b ^ a) - (a << 14 & _ALL | a >> 18) & _ALL
    found: int = (c ^ b) - (b << 24 & _ALL | b >> 8) & _ALL
    return found


def fletcher32(data: bytes) -> tuple[int, int]:
    """Fletcher's two sums, modulo 65,535, of big-endian words; an odd byte at the end is the upper half of one."""
    import numpy as np

    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2")
    first = second = 0
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK].astype(np.uint64)
        places = np.arange(len(block), 0, -1, dtype=np.uint64)
        second = (second + first * len(block) + int((block * places).sum())) % 65535
        first = (first + int(block.sum())) % 65535
    return first, second
