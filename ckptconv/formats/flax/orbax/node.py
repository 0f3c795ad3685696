"""What the manifest and the nodes of an OCDBT store have in common: an envelope, and a table of data files.

    4 bytes   magic
    8 bytes   u64 little-endian: size in bytes
    varint    version: 0
    varint    compression of the body: 0 none, 1 zstd
    …         the body
    4 bytes   u32 little-endian: the CRC-32C of everything before

The table of data files is at the start of the body. Each path leaves out what it shares with the one before:

    varint n; n - 1 varints: bytes shared; n varints: bytes that follow; n varints: bytes of the base path; the bytes

A path is relative to the base path of the file that holds the node. The base path of each file in the table is the
start of its path.

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

_MIN_SIZE = 4 + 8 + 2 + 4
_MAX_PATH = 65535
"""TensorStore's limit for a path, in bytes."""


@dataclass(slots=True)
class Budget:
    """Counts the bytes of nodes, stored and inflated, and of complete keys and paths. Their limits are far above what a
    valid store needs.
    """

    stored: int = 0
    inflated: int = 0
    text: int = 0

    def room(self, size: int) -> int:
        """Count a node of `size` bytes. Returns how many it may inflate to."""
        self.stored += size
        if self.stored > MAX_OCDBT_NODES:
            raise too_much(f"its nodes have more than {MAX_OCDBT_NODES:,} bytes")
        return min(MAX_OCDBT_NODES, FREE_OCDBT_BYTES + MAX_OCDBT_RATIO * self.stored) - self.inflated

    def count_text(self, size: int) -> None:
        """Count a key or a path of `size` bytes."""
        self.text += size
        if self.text > min(MAX_OCDBT_NODES, FREE_OCDBT_TEXT + MAX_OCDBT_TEXT_RATIO * self.stored):
            raise too_empty("its keys and paths are longer than its size warrants")


def open_node(data: bytes, magic: int, what: str, budget: Budget) -> Cursor:
    """Check a node's envelope, and give its body. Raises CorruptFileError, LimitError, UnsupportedError,
    MissingExtraError.
    """
    if len(data) < _MIN_SIZE:
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
    """A data file: its path in the store's folder, whose first `base` characters are the base path."""

    path: str
    base: int


@dataclass(frozen=True, slots=True)
class Place:
    """A range of a data file."""

    file: File
    offset: int
    length: int


def read_files(cursor: Cursor, start: str, budget: Budget) -> list[File]:
    """The table of data files of a node, which lies in a file with the base path `start`. Raises CorruptFileError."""
    count = cursor.varint(MAX_FILES)
    prefixes = [0, *cursor.varints(max(0, count - 1), _MAX_PATH)][:count]
    suffixes = cursor.varints(count, _MAX_PATH)
    bases = cursor.varints(count, _MAX_PATH)
    files: list[File] = []
    path = b""
    for prefix, suffix, base in zip(prefixes, suffixes, bases, strict=True):
        if prefix > len(path) or base > prefix + suffix or prefix + suffix + len(start) > _MAX_PATH:
            raise bad(f"{cursor.what} has a path that contradicts itself")
        budget.count_text(len(start) + prefix + suffix)
        path = path[:prefix] + cursor.take(suffix)
        try:
            files.append(File(start + path.decode("utf-8"), len((start.encode() + path[:base]).decode("utf-8"))))
        except UnicodeDecodeError as error:
            raise bad(f"{cursor.what} has the path {path[:80]!r}, which is not UTF-8") from error
    return files


def read_places(cursor: Cursor, files: list[File], count: int) -> list[Place | None]:
    """The next `count` places: columns of files, offsets and lengths. None for a missing one."""
    numbers, offsets = cursor.varints(count), cursor.varints(count)
    return [
        None if offset == length == (1 << 64) - 1 else Place(pick_file(cursor, files, number), offset, length)
        for number, offset, length in zip(numbers, offsets, cursor.varints(count), strict=True)
    ]


def pick_file(cursor: Cursor, files: list[File], number: int) -> File:
    """The file with this number in the table. Raises CorruptFileError."""
    if number >= len(files):
        raise bad(f"{cursor.what} names the file {number:,} of {len(files):,}")
    return files[number]
