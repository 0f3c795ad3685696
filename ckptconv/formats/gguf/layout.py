"""GGUF: a header of typed metadata and tensor names, and the tensors' bytes.

    "GGUF"                 magic
    u32                    version, 3 (2 is the same; 3 may be big-endian)
    u64 u64                number of tensors T, of metadata entries K
    K ×  string u32 value  key, type, value
    T ×  string u32 u64…   name, number of dimensions (at most 4), dimensions from the innermost to the outermost,
         u32 u64           ggml type, offset within the data
    padding                to a multiple of the alignment: ``general.alignment`` (u32, a power of two), else 32
    data                   each tensor at a multiple of the alignment

    string                 u64 length, UTF-8
    array                  u32 type of its items, u64 number of them, items

All numbers have one byte order: big-endian where the version's upper half is the one that is not zero; the tensors'
too. Source: ggml's ``docs/gguf.md``, ``gguf.cpp`` and ``ggml-common.h``. Types' numbers are ``ggml_type``'s.

Refused: version 1, types that ggml has removed, names and keys that come twice or are not UTF-8, offsets that are not
aligned, tensors that overlap or run past the end, rows that are not a whole number of blocks, booleans but 0 and 1;
in big-endian files, quantized types whose byte order ggml's own converter does not know.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from math import prod
from struct import Struct
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import BLOCKS, PLAIN, DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.gguf.values import FORMAT, TYPES, WIDTH, Typed
from ckptconv.formats.tensors.headers import Slot
from ckptconv.io.limits import MAX_DIM, MAX_GGUF_HEADER, MAX_NODES, MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.metadata import MetaNode
    from ckptconv.io.source import Source

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT_KEY = "general.alignment"
ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_RANK = 4
"""``GGML_MAX_DIMS``."""

MAX_ARRAY_DEPTH = 8
CHUNK = 32 << 10
"""Bytes that are read at a time, at first."""

CODE_BY_NAME: dict[str, int] = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q8_1": 9, "Q2_K": 10, "Q3_K": 11,
    "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "Q8_K": 15, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ3_XXS": 18, "IQ1_S": 19,
    "IQ4_NL": 20, "IQ3_S": 21, "IQ2_S": 22, "IQ4_XS": 23, "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28,
    "IQ1_M": 29, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39, "NVFP4": 40, "Q1_0": 41,
}  # fmt: skip
"""``ggml_type``."""

DTYPE_BY_CODE: dict[int, DType] = {code: (PLAIN | BLOCKS)[name] for name, code in CODE_BY_NAME.items()}

REMOVED = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}  # fmt: skip
"""Types that ggml once had."""


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the format."""
    return CorruptFileError(f"the GGUF header is invalid: {what}")


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header: metadata and tensors in its order; whether the file is in the other byte order than little."""

    big_endian: bool
    values: dict[str, Typed]
    slots: dict[str, Slot]


def claims(source: Source) -> bool:
    """Whether it starts with the magic and a version of either byte order."""
    if source.size < 8:
        return False
    start = bytes(source.read_at(0, 8))
    return start[:4] == MAGIC and b"\0\0" in (start[4:6], start[6:8])


def read_header(source: Source) -> Header:
    """Read and check the header, and little more: the file is read in pieces until the header ends.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    return source.once(Header, lambda: _read_header(source))


def _read_header(source: Source) -> Header:
    if not claims(source):
        raise bad("the magic or the version is missing")
    swapped = bytes(source.read_at(4, 2)) == b"\0\0"
    cursor = _Cursor(source, big_endian=swapped)
    version = cursor.number(_U32)
    if version not in (2, VERSION):
        raise UnsupportedError(
            f"GGUF version {version} is not supported", hint="write it again with a newer llama.cpp: version 2 or 3"
        )
    tensors, entries = cursor.number(_U64), cursor.number(_U64)
    _check_count(tensors, 24, MAX_TENSORS, source, "tensors")
    _check_count(entries, 13, MAX_NODES, source, "metadata entries")
    values: dict[str, Typed] = {}
    for _ in range(entries):
        key = cursor.name("key")
        if key in values:
            raise bad(f"the key {key!r} comes twice")
        values[key] = cursor.value(cursor.number(_U32))
    rows = [_row(cursor) for _ in range(tensors)]
    alignment = alignment_of(values)
    data = cursor.position + -cursor.position % alignment
    return Header(swapped, values, _slots(rows, data, alignment, source.size))


def _check_count(count: int, least: int, limit: int, source: Source, what: str) -> None:
    if count * least > source.size:
        raise bad(f"it claims {count:,} {what}, more than fit into the file")
    if count > limit:
        raise LimitError(f"the header has {count:,} {what}; the limit is {limit:,}")


def alignment_of(values: Mapping[str, Typed]) -> int:
    """The alignment that the metadata asks for. Raises CorruptFileError where it is none."""
    name, value = values.get(ALIGNMENT_KEY, ("uint32", ALIGNMENT))
    if name != "uint32" or not is_alignment(value):
        raise bad(f"{ALIGNMENT_KEY} is {value!r}, no power of two up to {MAX_ALIGNMENT:,}")
    assert isinstance(value, int)
    return value


def is_alignment(value: MetaNode) -> bool:
    """Whether a value can be ``general.alignment``."""
    return type(value) is int and 0 < value <= MAX_ALIGNMENT and value & (value - 1) == 0


_U32, _U64 = 4, 8

_Row = tuple[str, tuple[int, ...], int, int]
"""Name, dimensions from the innermost, type, offset."""


def _row(cursor: _Cursor) -> _Row:
    name = cursor.name("tensor name")
    rank = cursor.number(_U32)
    if rank > MAX_RANK:
        raise bad(f"{name!r} has {rank:,} dimensions; the format allows {MAX_RANK}")
    dims = tuple(cursor.number(_U64) for _ in range(rank))
    return name, dims, cursor.number(_U32), cursor.number(_U64)


def _slots(rows: list[_Row], data: int, alignment: int, size: int) -> dict[str, Slot]:
    slots: dict[str, Slot] = {}
    for name, dims, code, offset in rows:
        if name in slots:
            raise bad(f"the tensor {name!r} comes twice")
        info = _info(name, dims, code)
        if offset % alignment:
            raise bad(f"{name!r} lies at offset {offset:,}, which is not a multiple of {alignment}")
        if info.nbytes and data + offset + info.nbytes > size:
            more = data + offset + info.nbytes - size
            raise CorruptFileError(f"{name!r} runs {more:,} bytes past the end of the file")
        slots[name] = Slot(info, data + offset)
    position = 0
    for name, slot in sorted(slots.items(), key=lambda item: item[1].start):
        if slot.info.nbytes:
            if slot.start < position:
                raise bad(f"{name!r} overlaps the tensor before it")
            position = slot.start + slot.info.nbytes
    return slots


def _info(name: str, dims: tuple[int, ...], code: int) -> TensorInfo:
    dtype = DTYPE_BY_CODE.get(code)
    if dtype is None:
        was = f" ({REMOVED[code]}, which ggml has removed)" if code in REMOVED else ""
        raise UnsupportedError(
            f"{name!r} has the ggml type {code}{was}, which is not known", hint="quantize the model again"
        )
    if not all(n <= MAX_DIM for n in dims) or prod(dims) * dtype.bits > MAX_DIM:
        raise bad(f"{name!r} has dimensions out of range")
    if dtype.block > 1 and (not dims or dims[0] % dtype.block):
        raise bad(f"{name!r} has rows that are not a whole number of {dtype} blocks of {dtype.block}")
    return TensorInfo.of(dtype, dims[::-1])


class _Cursor:
    """Reads the header from the file's byte 4 on, in pieces that grow."""

    def __init__(self, source: Source, *, big_endian: bool) -> None:
        self._source = source
        self._order = ">" if big_endian else "<"
        self._numbers = {4: Struct(self._order + "I"), 8: Struct(self._order + "Q")}
        self._data = b""
        self._at = 0
        self._base = 4
        self._chunk = CHUNK
        self._items = 0

    @property
    def position(self) -> int:
        """Offset in the file."""
        return self._base + self._at

    def _need(self, count: int) -> None:
        """Have the next `count` bytes in memory."""
        missing = count - (len(self._data) - self._at)
        if missing <= 0:
            return
        end = self._base + len(self._data)
        if missing > self._source.size - end:
            raise CorruptFileError("the file ends within its GGUF header")
        if self.position + count > MAX_GGUF_HEADER:
            raise LimitError(f"the header is longer than {MAX_GGUF_HEADER:,} bytes")
        more = self._source.read_at(end, min(max(missing, self._chunk), self._source.size - end))
        self._data = self._data[self._at :] + bytes(more)
        self._base += self._at
        self._at = 0
        self._chunk = min(2 * self._chunk, 4 << 20)

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self._need(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, width: int) -> int:
        """The next unsigned number."""
        self._need(width)
        (value,) = self._numbers[width].unpack_from(self._data, self._at)
        self._at += width
        return int(value)

    def name(self, what: str) -> str:
        """A string that something goes by."""
        try:
            return self.take(self.number(8)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise bad(f"a {what} is not UTF-8") from error

    def value(self, code: int, depth: int = 0) -> Typed:
        """The type's name and the value."""
        name = TYPES.get(code)
        if name is None:
            raise bad(f"there is no metadata type {code}")
        if name == "string":
            return name, self.take(self.number(8)).decode("utf-8", "surrogateescape")
        if name == "array":
            return self._array(depth)
        found, (value,) = self._plain(name, 1)
        return found, value

    def _array(self, depth: int) -> Typed:
        code, count = self.number(4), self.number(8)
        name = TYPES.get(code)
        if name is None:
            raise bad(f"there is no metadata type {code}")
        self._items += count
        if self._items > MAX_NODES and name != "uint8":
            raise LimitError(f"the metadata has more than {MAX_NODES:,} items")
        if name == "string":
            return "string[]", self._strings(count)
        if name != "array":
            found, values = self._plain(name, count)
            return f"{found}[]", values
        if depth >= MAX_ARRAY_DEPTH:
            raise LimitError(f"arrays are nested more than {MAX_ARRAY_DEPTH} deep")
        items = [self._array(depth + 1) for _ in range(self._possible(count, 12))]
        names = {found for found, _ in items} or {"array"}
        if len(names) > 1:
            raise UnsupportedError("an array of arrays of different types is not supported", hint="write it again")
        return f"{names.pop()}[]", [value for _, value in items]

    def _possible(self, count: int, least: int) -> int:
        if count * least > self._source.size - self.position:
            raise CorruptFileError("an array of the GGUF header is longer than the file")
        return count

    def _strings(self, count: int) -> list[str]:
        self._possible(count, 8)
        length_at, texts = self._numbers[8].unpack_from, []
        for _ in range(count):
            if len(self._data) - self._at < 8:
                self._need(8)
            (length,) = length_at(self._data, self._at)
            start, stop = self._at + 8, self._at + 8 + length
            if stop > len(self._data):
                self._need(8 + length)
                start, stop = self._at + 8, self._at + 8 + length
            texts.append(self._data[start:stop].decode("utf-8", "surrogateescape"))
            self._at = stop
        return texts

    def _plain(self, name: str, count: int) -> tuple[str, Sequence[MetaNode]]:
        data = self.take(self._possible(count, WIDTH[name]) * WIDTH[name])
        if name == "bool":
            if data.count(0) + data.count(1) != count:
                raise bad("a boolean is neither 0 nor 1")
            return name, [byte == 1 for byte in data]
        if name == "uint8":
            return name, data
        numbers = array(FORMAT[name], data)
        if (self._order == ">") != (sys.byteorder == "big"):
            numbers.byteswap()
        return name, numbers.tolist()
