"""Checksums at memory speed, in C, without the interpreter lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash
from zlib_ng import zlib_ng

from ckptconv.io.crc32c import Crc32c

if TYPE_CHECKING:
    from ckptconv.core.tensor import ByteSpan

CHUNK = 1 << 18
"""How many bytes go through a buffer at a time. They stay in the second-level cache, and the kernel's page cache takes
them without searching for larger free blocks, which made writes of 1 MiB and more take up to three times the system
time.
"""


def crc32(data: memoryview | bytes, value: int = 0) -> int:
    """The CRC-32 of zip and zlib (polynomial 0xEDB88320), continued from `value`."""
    return zlib_ng.crc32(data, value)


def joined_crc32(first: int, second: int, length: int) -> int:
    """The CRC-32 of two concatenated runs of bytes, from the CRC-32 of each; the second has `length` bytes."""
    return zlib_ng.crc32_combine(first, second, length)


def tail_crc32(whole: int, head: int, length: int) -> int:
    """The CRC-32 of the last `length` bytes, from that of all bytes and that of the bytes before."""
    return whole ^ zlib_ng.crc32_combine(head, 0, length)


class SpanCheck:
    """Checks the bytes of a span, as they pass, against its recorded checksum, if it has one."""

    def __init__(self, span: ByteSpan) -> None:
        self._recorded, self._crc = span.recorded_crc32, 0
        self._recorded_c = span.crc32c
        self._crc_c = None if self._recorded_c is None else Crc32c()
        self.needed = self._recorded is not None or self._crc_c is not None

    def update(self, data: memoryview, crc: int | None = None) -> None:
        """Add the next bytes. `crc`: the CRC-32 of all bytes so far, if it is known."""
        if self._recorded is not None:
            self._crc = crc32(data, self._crc) if crc is None else crc
        if self._crc_c is not None:
            self._crc_c.update(data)

    @property
    def holds(self) -> bool:
        """Whether the bytes match their recorded checksum, or none is recorded."""
        if self._crc_c is not None and self._crc_c.value != self._recorded_c:
            return False
        return self._recorded in (None, self._crc)


def is_damaged(span: ByteSpan) -> bool:
    """Whether the bytes of a span fail their recorded checksum. Reads them, in constant memory, if there is one."""
    check = SpanCheck(span)
    for start in range(0, span.length if check.needed else 0, CHUNK):
        check.update(span.file.read_at(span.offset + start, min(CHUNK, span.length - start)))
    return not check.holds


class ContentHash:
    """The xxh3 hash, 128 bits, of bytes given in pieces."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()

    def update(self, data: memoryview | bytes) -> None:
        self._state.update(data)

    def hexdigest(self) -> str:
        """The hash in xxhash's canonical form, 32 hexadecimal digits."""
        return self._state.hexdigest()
