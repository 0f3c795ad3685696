"""The messages in the index, and the object graph that `tf.train.Checkpoint` stores as a text.

    BundleHeaderProto   1 num_shards  2 endianness (1: big)  3 version: 1 producer  2 min_consumer
    BundleEntryProto    1 dtype  2 shape: 2* dim: 1 size; 3 unknown_rank   3 shard_id  4 offset  5 size  6 crc32c
                        7* slices: 1* extent: 1 start  2 length (neither: all of that dimension)

    TrackableObjectGraph   1* nodes: 2* attributes (SerializedTensor): 1 name  2 full_name  3 checkpoint_key

A star marks repeated fields. What is absent is 0. An entry with slices has no bytes of its own: they are under the keys
that `slice_key` makes. Other fields are skipped, as protobuf's readers do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ckptconv.errors import UPGRADE, LimitError, UnsupportedError
from ckptconv.formats.tensorflow.table import bad, unmasked
from ckptconv.io.limits import MAX_FILES, MAX_RANK
from ckptconv.io.protobuf import LEN, VARINT, fields_in

if TYPE_CHECKING:
    from collections.abc import Iterator

Data = TypeVar("Data", bytes, memoryview)

Extent = tuple[int, int | None]
"""Where a slice begins in a dimension, and its length; None: to the end."""

KNOWN_VERSION = 1


@dataclass(frozen=True, slots=True)
class Header:
    """The number of data files, and whether their numbers are big-endian (`swapped`)."""

    shards: int
    swapped: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in the index.

    dtype:  the number of its type.
    shard, offset, size: where its bytes are; `shard` is the number of the data file.
    crc32c: the recorded checksum of these bytes.
    slices: the extents of its slices, if it is stored in slices.
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int
    slices: tuple[tuple[Extent, ...], ...]


def read_header(data: bytes) -> Header:
    """Parse the header. Raises CorruptFileError, LimitError, UnsupportedError if it requires a newer reader."""
    shards = endianness = min_consumer = 0
    for number, value in fields(data):
        match number, value:
            case 1, int():
                shards = value
            case 2, int():
                endianness = value
            case 3, bytes():
                min_consumer = next((v for n, v in fields(value) if n == 2 and isinstance(v, int)), 0)
    if min_consumer > KNOWN_VERSION:
        raise UnsupportedError(
            f"the checkpoint has version {min_consumer} of its format; known is {KNOWN_VERSION}", hint=UPGRADE
        )
    if endianness not in (0, 1):
        raise bad("its byte order is neither little nor big")
    if not 0 < shards <= MAX_FILES:
        raise LimitError(f"it speaks of {shards:,} files of data")
    return Header(shards, endianness == 1)


def read_entry(data: bytes) -> Entry:
    """Parse an entry. Raises CorruptFileError, LimitError."""
    dtype = shard = offset = size = crc = 0
    shape: tuple[int, ...] = ()
    slices: list[tuple[Extent, ...]] = []
    for number, value in fields(data):
        match number, value:
            case 1, int():
                dtype = value
            case 2, bytes():
                shape = _shape(value)
            case 3, int():
                shard = value
            case 4, int():
                offset = value
            case 5, int():
                size = value
            case 6, int():
                crc = value
            case 7, bytes():
                slices.append(tuple(_extent(part) for n, part in fields(value) if n == 1 and isinstance(part, bytes)))
    return Entry(dtype, shape, shard, offset, size, unmasked(crc), tuple(slices))


def _shape(data: bytes) -> tuple[int, ...]:
    sizes = []
    for number, value in fields(data):
        if number == 2 and isinstance(value, bytes):
            sizes.append(next((v for n, v in fields(value) if n == 1 and isinstance(v, int)), 0))
        elif number == 3 and value:
            raise bad("a tensor's rank is unknown")
    if len(sizes) > MAX_RANK:
        raise LimitError(f"a tensor has {len(sizes)} dimensions")
    if any(size >> 63 for size in sizes):
        raise bad("a dimension is negative")
    return tuple(sizes)


def _extent(data: bytes) -> Extent:
    start, length = 0, None
    for number, value in fields(data):
        if number == 1 and isinstance(value, int):
            start = value
        elif number == 2 and isinstance(value, int):
            length = value
    if start >> 63 or (length is not None and length >> 63):
        raise bad("a slice begins or ends before 0")
    return start, length


def variable_names(graph: bytes) -> dict[str, str]:
    """The variables' own names, by their keys in the checkpoint, from the object graph. Several may share a name.

    Raises CorruptFileError.
    """
    names: dict[str, str] = {}
    for node in _messages(graph, 1):
        for attribute in _messages(node, 2):
            texts = {number: value for number, value in fields(attribute) if isinstance(value, bytes)}
            if texts.get(2) and texts.get(3):
                names[texts[3].decode("utf-8", "replace")] = texts[2].decode("utf-8", "replace")
    return names


def _messages(data: bytes, field_number: int) -> Iterator[bytes]:
    return (value for number, value in fields(data) if number == field_number and isinstance(value, bytes))


def fields(data: Data) -> Iterator[tuple[int, int | Data]]:
    """The number and the payload of each field of a message; views, if `data` is one. Raises CorruptFileError."""
    for number, wire, begin, end in fields_in(data, 0, len(data), bad):
        if wire == VARINT:
            yield number, begin
        else:
            payload = data[begin:end]
            yield number, payload if wire == LEN else int.from_bytes(payload, "little")


# -- Keys of slices: numbers and texts, encoded so that they sort alike (tensorflow/core/lib/strings/ordered_code.cc)


def slice_key(name: bytes, extents: tuple[Extent, ...]) -> bytes:
    """The key of a slice's entry in the index (tensorflow/core/util/saved_tensor_slice_util.cc)."""
    text = b"".join(_ESCAPED.get(byte, bytes([byte])) for byte in name)
    key = _encode_unsigned(0) + text + b"\0\1" + _encode_unsigned(len(extents))
    for start, length in extents:
        key += _encode_signed(start) + _encode_signed(-1 if length is None else length)
    return key


_ESCAPED = {0x00: b"\0\xff", 0xFF: b"\xff\0"}


def _encode_unsigned(value: int) -> bytes:
    """The number of bytes, then the bytes, highest first."""
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _encode_signed(value: int) -> bytes:
    """Two's complement, 7 bits per byte, highest first, after as many one bits as bytes (zero bits, if negative)."""
    size = (value if value >= 0 else ~value).bit_length() // 7 + 1
    ones = ((1 << size) - 1) << (7 * size)
    image = value & ((1 << 8 * size) - 1)
    return (image ^ ones).to_bytes(size, "big")
