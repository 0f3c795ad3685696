"""TensorFlow's checkpoints, assembled by hand."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

from ckptconv.io.crc32c import crc32c
from tests.support.protobuf_files import field, varint

if TYPE_CHECKING:
    from collections.abc import Mapping


def masked(data: bytes) -> bytes:
    """The CRC-32C of the data, masked as it is stored."""
    crc = crc32c(data)
    return pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def entry(dtype: int, shape: tuple[int, ...], offset: int, size: int, shard: int = 0, more: bytes = b"") -> bytes:
    sizes = b"".join(field(2, field(1, n)) for n in shape)
    return field(1, dtype) + field(2, sizes) + field(3, shard) + field(4, offset) + field(5, size) + more


def summed(data: bytes) -> bytes:
    """The field of an entry with the checksum of its bytes."""
    return varint(6 << 3 | 5) + masked(data)


def text(value: bytes) -> tuple[bytes, bytes]:
    """The bytes of a text, and the field with their checksum."""
    length = pack("<I", len(value))
    sums = masked(length)
    return varint(len(value)) + sums + value, summed(length + sums + value)


HEADER = field(1, 1) + field(3, field(1, 1))


def rows(entries: Mapping[bytes, bytes]) -> bytes:
    """A block's entries, each with its whole key."""
    return b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries.items())


def block(rows: bytes, compression: int = 0) -> bytes:
    """A block: entries, one restart, the compression, and the checksum."""
    body = rows + pack("<II", 0, 1) + bytes([compression])
    return body + masked(body)


def table(first_rows: bytes, compression: int = 0) -> bytes:
    """A table of one block."""
    first, nothing = block(first_rows, compression), block(b"")
    index = block(rows({b"\xff": varint(0) + varint(len(first) - 5)}))
    handles = varint(len(first)) + varint(len(nothing) - 5) + varint(len(first) + len(nothing)) + varint(len(index) - 5)
    return first + nothing + index + handles.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
