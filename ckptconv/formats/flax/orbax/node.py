"""What the manifest and the nodes of an OCDBT store have in common, and how they name files of data.

    4 bytes   which of them it is
    8 bytes   u64 little-endian: bytes in all
    varint    version: 0
    varint    how the body is compressed: 0 not, 1 by zstd
    …         the body
    4 bytes   u32 little-endian: the CRC-32C of all that stands before

Files stand in a table at the body's start, each path with what it shares with the one before (`Paths`):

    varint n; n - 1 varints: bytes shared; n varints: bytes that follow; n varints: bytes of the base path; the bytes

A path is relative to that by which the node was reached; its base path is what its own children start from.

Source: https://google.github.io/tensorstore/kvstore/ocdbt/index.html, kvstore/ocdbt/format/codec_util.cc,
data_file_id_codec.cc.
"""

from __future__ import annotations

from dataclasses import dataclass

from ckptconv.errors import UPGRADE, UnsupportedError
from ckptconv.formats.flax.orbax.compressed import inflate_all
from ckptconv.formats.flax.orbax.cursor import Cursor
from ckptconv.formats.flax.orbax.damage import bad, too_empty, too_much
from ckptconv.io.crc32c import crc32c
from ckptconv.io.limits import (
    FREE_OCDBT_BYTES,
    FREE_OCDBT_TEXT,
    MAX_FILES,
    MAX_OCDBT_NODES,
    MAX_OCDBT_RATIO,
    MAX_OCDBT_TEXT_RATIO,
)

_LEAST = 4 + 8 + 2 + 4
_MAX_PATH = 65535
"""Bytes of a path and of a key, as TensorStore bounds them."""


@dataclass(slots=True)
class Budget:
    """How many bytes of nodes may still be read, as they are and inflated, and what keys and paths come to once each
    has what it shares with the one before: no more than an honest store has.
    """

    stored: int = 0
    inflated: int = 0
    spelled: int = 0

    def room(self, size: int) -> int:
        """Count a node of `size` bytes; how many it may inflate to."""
        self.stored += size
        if self.stored > MAX_OCDBT_NODES:
            raise too_much(f"its nodes have more than {MAX_OCDBT_NODES:,} bytes")
        return min(MAX_OCDBT_NODES, FREE_OCDBT_BYTES + MAX_OCDBT_RATIO * self.stored) - self.inflated

    def spell(self, size: int) -> None:
        """Count a key or a path of `size` bytes."""
        self.spelled += size
        if self.spelled > min(MAX_OCDBT_NODES, FREE_OCDBT_TEXT + MAX_OCDBT_TEXT_RATIO * self.stored):
            raise too_empty("its keys and paths are longer than its size warrants")


def opened(data: bytes, magic: int, what: str, budget: Budget) -> Cursor:
    """The body of a node. Raises CorruptFileError, LimitError, UnsupportedError, MissingExtraError."""
    if len(data) < _LEAST:
        raise bad(f"{what} is cut short" if data else f"{what} is empty")
    if int.from_bytes(data[:4], "big") != magic:
        raise bad(f"{what} does not start as one")
    if int.from_bytes(data[4:12], "little") != len(data):
        raise bad(f"{what} says that it has {int.from_bytes(data[4:12], 'little'):,} bytes, and has {len(data):,}")
    if crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise bad(f"the checksum of {what} does not hold")
    head = Cursor(data[12:-4], what)
    version, compression = head.varint(), head.varint()
    if version or compression > 1:
        raise UnsupportedError(
            f"{what} has version {version} and compression {compression}; known are version 0, none and zstd",
            hint=UPGRADE,
        )
    room = budget.room(len(data))
    body = head.take(head.left)
    if compression:
        body = inflate_all(body, room)
    elif len(body) > room:
        raise too_much("its nodes have more bytes than an honest store's")
    budget.inflated += len(body)
    return Cursor(body, what)


@dataclass(frozen=True, slots=True)
class File:
    """A file of data: its path in the store's folder, of which the first `base` characters are the base path."""

    path: str
    base: int


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of a file of data."""

    file: File
    offset: int
    length: int


def read_files(cursor: Cursor, start: str, budget: Budget) -> list[File]:
    """The table of files of a node that was reached by a file of the base path `start`."""
    count = cursor.varint(MAX_FILES)
    shared = [0, *cursor.varints(max(0, count - 1), _MAX_PATH)][:count]
    more = cursor.varints(count, _MAX_PATH)
    bases = cursor.varints(count, _MAX_PATH)
    files: list[File] = []
    path = b""
    for prefix, suffix, base in zip(shared, more, bases, strict=True):
        if prefix > len(path) or base > prefix + suffix or prefix + suffix + len(start) > _MAX_PATH:
            raise bad(f"{cursor.what} has a path that contradicts itself")
        budget.spell(len(start) + prefix + suffix)
        path = path[:prefix] + cursor.take(suffix)
        try:
            files.append(File(start + path.decode("utf-8"), len((start.encode() + path[:base]).decode("utf-8"))))
        except UnicodeDecodeError as error:
            raise bad(f"{cursor.what} has the path {path[:80]!r}, which is not UTF-8") from error
    return files


def read_places(cursor: Cursor, files: list[File], count: int) -> list[Place | None]:
    """So many places: a column of files, one of offsets, one of lengths. None: there is nothing."""
    which, offsets = cursor.varints(count), cursor.varints(count)
    return [
        None if offset == length == (1 << 64) - 1 else Place(pick(cursor, files, i), offset, length)
        for i, offset, length in zip(which, offsets, cursor.varints(count), strict=True)
    ]


def pick(cursor: Cursor, files: list[File], number: int) -> File:
    """A file of a table by its number there."""
    if number >= len(files):
        raise bad(f"{cursor.what} names the file {number:,} of {len(files):,}")
    return files[number]
