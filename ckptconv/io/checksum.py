"""Checksums at memory speed, in C, without the interpreter lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash
from zlib_ng import zlib_ng

if TYPE_CHECKING:
    from ckptconv.core.tensor import ByteSpan

CHUNK = 1 << 18
"""Bytes that go through one buffer at a time. They stay in the second-level cache, and the kernel's page cache takes
them without hunting for larger free blocks, which cost writes of 1 MiB and more up to three times the system time."""


def crc32(data: memoryview | bytes, value: int = 0) -> int:
    """CRC-32 as zip and zlib define it (polynomial 0xEDB88320), continuing from `value`."""
    return zlib_ng.crc32(data, value)


def joined_crc32(first: int, second: int, length: int) -> int:
    """CRC-32 of two runs of bytes as one, from theirs; the second has `length` bytes."""
    return zlib_ng.crc32_combine(first, second, length)


def tail_crc32(whole: int, head: int, length: int) -> int:
    """CRC-32 of the last `length` bytes, from that of all and that of those before them."""
    return whole ^ zlib_ng.crc32_combine(head, 0, length)


def span_crc32(span: ByteSpan) -> int:
    """CRC-32 of the bytes of a span; one pass in constant memory."""
    value = 0
    for start in range(0, span.length, CHUNK):
        value = crc32(span.file.read_at(span.offset + start, min(CHUNK, span.length - start)), value)
    return value


class ContentHash:
    """xxh3, 128 bits, of bytes given in pieces."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()

    def update(self, data: memoryview | bytes) -> None:
        self._state.update(data)

    def hexdigest(self) -> str:
        """32 hexadecimal digits, as xxhash's canonical form."""
        return self._state.hexdigest()
