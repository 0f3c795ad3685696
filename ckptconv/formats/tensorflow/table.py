"""TensorFlow's sorted table, which is LevelDB's.

    file     blocks of entries, a metadata block (empty here), the index block, the footer
    footer   48 bytes: handles of the metadata block and of the index block, zeros, the magic number (8 bytes)
    handle   two varints: where a block is, and its length without the 5 bytes after it
    block    entries; a uint32 for each restart: where it is; uint32: how many; then a byte of compression (0: none),
             and uint32: the masked CRC-32C of all of it
    entry    varints: bytes shared with the key before, further bytes of the key, bytes of the value; then these two

The values in the index block are the handles of the other blocks, in order. Numbers are little-endian; varints are
protobuf's. Every CRC is checked, and the keys must be sorted.

Source: tensorflow/core/lib/io (table.cc, format.cc, block.cc), hash/crc32c.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, LimitError, UnsupportedError
from ckptconv.io.crc32c import crc32c
from ckptconv.io.limits import MAX_INDEX_BYTES
from ckptconv.io.varint import varint as plain_varint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.io.source import Source

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER = 48
TRAILER = 5
"""Bytes after a block: its compression, and its CRC."""

MAX_KEYS = 4 * MAX_INDEX_BYTES
"""The most bytes of all keys: keys may share nearly all bytes with the one before, so a small file can have large ones.
"""


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the layout."""
    return CorruptFileError(f"the index is damaged: {what}", hint=COPY_ALL_AGAIN)


def entries(source: Source) -> Iterator[tuple[bytes, bytes]]:
    """All keys and their values, in order. Reads the whole file, one block at a time."""
    if source.size > MAX_INDEX_BYTES:
        raise LimitError(f"an index of {source.size:,} bytes")
    if source.size < FOOTER:
        raise bad("it is cut short")
    footer = bytes(source.read_at(source.size - FOOTER, FOOTER))
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    end = key_bytes = 0
    last: bytes | None = None
    for _, value in _block(source, *index):
        (offset, length), _ = _handle(value, 0)
        if offset < end:
            raise bad("its blocks overlap")
        end = offset + length + TRAILER
        for key, entry in _block(source, offset, length):
            if last is not None and key <= last:
                raise bad("its keys do not rise")
            last = key
            key_bytes += len(key)
            if key_bytes > MAX_KEYS:
                raise LimitError(f"its keys have more than {MAX_KEYS:,} bytes")
            yield key, entry


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = varint(data, at)
    length, at = varint(data, at)
    return (offset, length), at


def _block(source: Source, offset: int, length: int) -> Iterator[tuple[bytes, bytes]]:
    if offset + length + TRAILER > source.size - FOOTER or length < 4:
        raise bad("a block lies past its end")
    data = bytes(source.read_at(offset, length + TRAILER))
    if crc32c(data[: length + 1]) != unmasked(int.from_bytes(data[length + 1 :], "little")):
        raise bad("a block's checksum does not hold")
    if data[length]:
        raise UnsupportedError("the index is compressed", hint="load it with TensorFlow, and save it again")
    restarts = int.from_bytes(data[length - 4 : length], "little")
    end = length - 4 - 4 * restarts
    if end < 0:
        raise bad("a block has more restarts than bytes")
    at, key = 0, b""
    while at < end:
        shared, at = varint(data, at)
        more, at = varint(data, at)
        size, at = varint(data, at)
        if shared > len(key) or at + more + size > end:
            raise bad("an entry lies past its block's end")
        key = key[:shared] + data[at : at + more]
        yield key, data[at + more : at + more + size]
        at += more + size


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read the varint at `at`. Returns it and where it ends. Raises CorruptFileError past the end or 64 bits."""
    try:
        return plain_varint(data, at)
    except (IndexError, OverflowError):
        raise bad("a number is cut short, or of more than 64 bits") from None


def unmasked(stored: int) -> int:
    """The CRC-32C that is stored masked; masking keeps CRCs of data that contains CRCs useful."""
    rotated = (stored - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
