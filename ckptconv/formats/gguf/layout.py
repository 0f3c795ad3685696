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

All numbers have the same byte order, those of the tensors included. A file is big-endian if the upper two bytes of the
version, read as little-endian, are the ones that are not zero. Types have the numbers of ``ggml_type``.

Refused: version 1, types that ggml has removed, duplicate or non-UTF-8 names and keys, offsets that are not aligned,
tensors that overlap or run past the end, rows that are not a whole number of blocks, booleans other than 0 and 1; in
big-endian files, quantized types whose byte order ggml's own converter does not know.

Source: ggml's ``docs/gguf.md``, ``gguf.cpp`` and ``ggml-common.h``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.dtypes import BLOCKS, PLAIN, DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.gguf.cursor import Cursor, bad
from ckptconv.formats.tensors.headers import Slot
from ckptconv.io.limits import MAX_DIM, MAX_NODES, MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.gguf.values import Typed
    from ckptconv.io.source import Source

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT_KEY = "general.alignment"
ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_RANK = 4
"""``GGML_MAX_DIMS``."""

CODE_BY_NAME: dict[str, int] = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q8_1": 9, "Q2_K": 10, "Q3_K": 11,
    "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "Q8_K": 15, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ3_XXS": 18, "IQ1_S": 19,
    "IQ4_NL": 20, "IQ3_S": 21, "IQ2_S": 22, "IQ4_XS": 23, "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28,
    "IQ1_M": 29, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39, "NVFP4": 40, "Q1_0": 41,
}  # fmt: skip
"""The numbers of ``ggml_type``."""

DTYPE_BY_CODE: dict[int, DType] = {code: (PLAIN | BLOCKS)[name] for name, code in CODE_BY_NAME.items()}

REMOVED = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}  # fmt: skip
"""Types that ggml once had, by number."""


_U32, _U64 = 4, 8
_LEAST_ROW = _U64 + _U32 + _U32 + _U64
"""Bytes of the shortest row: a tensor without a name and without dimensions."""
_LEAST_ENTRY = _U64 + _U32 + 1
"""Bytes of the shortest metadata entry: an empty key, and a value of one byte."""


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header, with metadata and tensors in the order of the file."""

    big_endian: bool
    values: dict[str, Typed]
    slots: dict[str, Slot]


def claims(source: Source) -> bool:
    """Whether the file starts with the magic and a version, in either byte order."""
    if source.size < 8:
        return False
    start = bytes(source.read_at(0, 8))
    return start[:4] == MAGIC and b"\0\0" in (start[4:6], start[6:8])


def read_header(source: Source) -> Header:
    """Read and check the header. The file is read in pieces, and little further than the header's end.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    return source.once(Header, lambda: _read_header(source))


def _read_header(source: Source) -> Header:
    if not claims(source):
        raise bad("the magic or the version is missing")
    big_endian = bytes(source.read_at(4, 2)) == b"\0\0"
    cursor = Cursor(source, big_endian=big_endian)
    version = cursor.number(_U32)
    if version not in (2, VERSION):
        raise UnsupportedError(
            f"GGUF version {version} is not supported", hint="write it again with a newer llama.cpp: version 2 or 3"
        )
    tensors, entries = cursor.number(_U64), cursor.number(_U64)
    _check_count(tensors, _LEAST_ROW, MAX_TENSORS, source, "tensors")
    _check_count(entries, _LEAST_ENTRY, MAX_NODES, source, "metadata entries")
    values: dict[str, Typed] = {}
    for _ in range(entries):
        key = cursor.name("key")
        if key in values:
            raise bad(f"the key {key!r} comes twice")
        values[key] = cursor.value(cursor.number(_U32))
    rows = [_read_row(cursor) for _ in range(tensors)]
    alignment = alignment_of(values)
    data = cursor.position + -cursor.position % alignment
    return Header(big_endian, values, _slots(rows, data, alignment, source.size))


def _check_count(count: int, width: int, limit: int, source: Source, what: str) -> None:
    """Raise an error if `count` items, of at least `width` bytes each, don't fit into the file, or exceed the limit."""
    if count * width > source.size:
        raise bad(f"it claims {count:,} {what}, more than the file can hold")
    if count > limit:
        raise LimitError(f"the header has {count:,} {what}; the limit is {limit:,}")


def alignment_of(values: Mapping[str, Typed]) -> int:
    """The alignment that the metadata states, or the default. Raises CorruptFileError if it is not a valid one."""
    name, value = values.get(ALIGNMENT_KEY, ("uint32", ALIGNMENT))
    if name != "uint32" or not is_alignment(value):
        raise bad(f"{ALIGNMENT_KEY} is {value!r}, no power of two up to {MAX_ALIGNMENT:,}")
    assert isinstance(value, int)
    return value


def is_alignment(value: MetaNode) -> bool:
    """Whether a value can be ``general.alignment``."""
    return type(value) is int and 0 < value <= MAX_ALIGNMENT and value & (value - 1) == 0


class _Row(NamedTuple):
    """A tensor as the header lists it: dimensions from the innermost on, offset within the data."""

    name: str
    dims: tuple[int, ...]
    code: int
    offset: int


def _read_row(cursor: Cursor) -> _Row:
    name = cursor.name("tensor name")
    rank = cursor.number(_U32)
    if rank > MAX_RANK:
        raise bad(f"{name!r} has {rank:,} dimensions; the format allows {MAX_RANK}")
    dims = tuple(cursor.number(_U64) for _ in range(rank))
    return _Row(name, dims, cursor.number(_U32), cursor.number(_U64))


def _slots(rows: list[_Row], data: int, alignment: int, size: int) -> dict[str, Slot]:
    """Where each tensor lies in a file of `size` bytes, whose data begins at the offset `data`."""
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
    _check_overlaps(slots)
    return slots


def _check_overlaps(slots: Mapping[str, Slot]) -> None:
    position = 0
    for name, slot in sorted(slots.items(), key=lambda item: item[1].start):
        if slot.info.nbytes:
            if slot.start < position:
                raise bad(f"{name!r} overlaps the tensor before it")
            position = slot.start + slot.info.nbytes


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
