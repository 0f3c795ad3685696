"""The sorted table of TensorFlow, which is LevelDB's.

    file     blocks of entries, a block of metadata (none here), the index block, the footer
    footer   48 bytes: handles of the metadata's and of the index's block, zeros, the magic number (8 bytes)
    handle   two varints: where a block is, and its length without the 5 bytes behind it
    block    entries; uint32 for each restart, where it is; uint32, how many; then a byte of compression (0: none), and
             uint32, the masked CRC-32C of all that
    entry    varints: bytes shared with the key before, further bytes of the key, bytes of the value; then these two

The index block's values are the handles of the others, in their order. Numbers are little-endian; a varint is
protobuf's. Every CRC is checked, and the keys have to rise.

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
"""Bytes behind a block: how it is compressed, and its CRC."""

MAX_KEYS = 4 * MAX_INDEX_BYTES
"""Bytes of all keys: each may share all but a byte with the one before, so that a small file has large ones."""


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the layout."""
    return CorruptFileError(f"the index is damaged: {what}", hint=COPY_ALL_AGAIN)


def entries(source: Source) -> Iterator[tuple[bytes, bytes]]:
    """Every key and its value, in their order. Reads the whole file, a block at a time."""
    if source.size > MAX_INDEX_BYTES:
        raise LimitError(f"an index of {source.size:,} bytes")
    if source.size < FOOTER:
        raise bad("it is cut short")
    footer = bytes(source.read_at(source.size - FOOTER, FOOTER))
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    end = keys = 0
    last: bytes | None = None
    for _, value in _block(source, *index):
        (offset, length), _ = _handle(value, 0)
        if offset < end:
            raise bad("its blocks overlap")
        end = offset + length + TRAILER
        for key, found in _block(source, offset, length):
            if last is not None and key <= last:
                raise bad("its keys do not rise")
            last = key
            keys += len(key)
            if keys > MAX_KEYS:
                raise LimitError(f"its keys have more than {MAX_KEYS:,} bytes")
            yield key, found


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
    """The varint at `at`, and where it ends. Raises CorruptFileError past the data's end and past 64 bits."""
    try:
        return plain_varint(data, at)
    except (IndexError, OverflowError):
        raise bad("a number is cut short, or of more than 64 bits") from None


def unmasked(stored: int) -> int:
    """A CRC-32C of how it is stored, which is so that the CRC of data with CRCs in it stays a good one."""
    turned = (stored - 0xA282EAD8) & 0xFFFFFFFF
    return (turned >> 17 | turned << 15) & 0xFFFFFFFF
