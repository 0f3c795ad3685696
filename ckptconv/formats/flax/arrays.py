"""Flax's additions to msgpack: extensions, and arrays in chunks.

    1   an array: the extension's bytes are an array of three objects
            shape      an array of integers
            dtype      numpy's name for it as a str: float32, bfloat16, int4, bool
            data       bytes: the elements in C order, little-endian on every machine that JAX runs on
    2   a complex number: an array of its two parts
    3   a numpy scalar: like an array without dimensions
    4   a tuple, in files of Orbax, which adopted the format: an array

An array of more than 2^30 bytes in a map is replaced by a map:
``{"__msgpack_chunked_array__": True, "shape": {"0": …}, "chunks": {"0": array, "1": array, …}}``, with one-dimensional
chunks. Elements of fewer than 8 bits take a byte each, as in ml_dtypes. numpy's arrays of text, which Flax writes but
does not read (``str64`` is two characters of UTF-32), are metadata. Flax writes an array of swapped byte order as it is
in memory, without saying so; nobody can tell.

Scalars are metadata, except those of ml_dtypes' types, which numpy has no code for: these are tensors without
dimensions. Arrays of other types (``float8_e3m4``, ``datetime64[s]``, ``float128``, ``void16``) are shown, but not
read. Times (msgpack's type -1) and extensions of other types are kept as objects. Refused: strings that stand for
arrays in other files (Orbax's, and Flax's own of several processes).

Sources: flax/serialization.py (`_ndarray_to_bytes`, `_msgpack_ext_pack`, `_chunk`), flax/training/checkpoints.py
(`MP_ARRAY_PH`), orbax/checkpoint/msgpack_utils.py, orbax/checkpoint/utils.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.arrays import NUMPY_CODED, NUMPY_DESCR, NUMPY_NAMED
from ckptconv.core.metadata import NumpyArray, NumpyScalar, Opaque
from ckptconv.core.tensor import ByteSpan, LazyTensor, SpanReader, TensorInfo
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.flax.msgpack import Unpacker, Value
from ckptconv.formats.flax.packed import Packed
from ckptconv.io.gather import laid_out
from ckptconv.io.limits import MAX_DIM, MAX_RANK, MAX_TENSORS, is_size
from ckptconv.io.pieces import Piece, Pieces

if TYPE_CHECKING:
    from ckptconv.core.dtypes import DType
    from ckptconv.io.source import Source

CHUNKED = "__msgpack_chunked_array__"

ELSEWHERE = ("PLACEHOLDER://", "//GDAPlaceholder:")
"""The starts of strings that stand for arrays elsewhere: in a folder of Orbax's, and of Flax's own."""

_DESCR = re.compile(r"(?P<order>[<>=|])(?P<word>[a-z]\d+)")
TEXT = re.compile(r"(?P<kind>str|bytes)(?P<bits>[1-9]\d{0,9})")
_MAX_NAME = 64


class Type(IntEnum):
    """The types of extensions."""

    TIME = -1
    ARRAY = 1
    COMPLEX = 2
    SCALAR = 3
    TUPLE = 4


@dataclass(frozen=True, slots=True)
class _Header:
    """An array's shape, the name of its dtype, and the place of its elements in the file."""

    shape: tuple[int, ...]
    dtype_name: str
    start: int
    length: int


class FlaxUnpacker(Unpacker):
    """Makes a tree with a `LazyTensor` for each array, without reading elements.

    found:  whether the file has anything that only Flax writes.
    unread: arrays of unknown types: a description of the type, by path.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.found = False
        self.unread: dict[str, str] = {}
        self._source = source
        self._tensors = 0

    def string(self, text: str) -> Value:
        """The string. Raises UnsupportedError if it stands for an array elsewhere."""
        if text.startswith(ELSEWHERE):
            self.found = True
            raise UnsupportedError(
                f"the array {self.at()} is not in this file, which only says that it is in a folder beside it",
                hint="name the folder itself: Orbax's are read as a whole",
            )
        return text

    def mapping(self, made: dict[str | bytes, Value]) -> Value:
        """The map; an array in chunks becomes one tensor."""
        return self._join_chunks(made) if CHUNKED in made else made

    def extension(self, code: int, length: int) -> Value:
        """The value of an extension, by its type."""
        match code:
            case Type.ARRAY | Type.SCALAR:
                return self._array_or_scalar(code)
            case Type.COMPLEX:
                return self._complex()
            case Type.TUPLE:
                return tuple(self.array_of(self._count("tuple")))
            case Type.TIME:
                return self._time(length)
            case _:
                return Opaque("msgpack.ExtType", "constructed", (code, self.cursor.text(length)))

    def _array_or_scalar(self, code: int) -> Value:
        header = self._header()
        if text := TEXT.fullmatch(header.dtype_name):
            return self._text(header, text["kind"], int(text["bits"]))
        dtype, swapped = _element(header.dtype_name)
        if dtype is None:
            self.unread[self.place()] = f"of the element type {header.dtype_name!r}"
            return Opaque("numpy.ndarray", "unread", (header.shape, header.dtype_name))
        self._check_size(header, dtype)
        if code == Type.SCALAR and not header.shape and dtype in NUMPY_CODED.values():
            descr = NUMPY_DESCR[dtype]
            data = self.cursor.again(header.start, header.length)
            return NumpyScalar(descr.replace("<", ">") if swapped else descr, data)
        return self._tensor(header, dtype, swapped=swapped)

    def _header(self) -> _Header:
        """Reads the header of an array, and skips its elements."""
        cursor = self.cursor
        if self._count("array") != 3:
            raise self._bad("it is not a shape, dtype and data")
        self.found = True
        rank = self._count("shape")
        if rank > MAX_RANK:
            raise LimitError(f"{self.at()} has {rank:,} dimensions; the limit is {MAX_RANK}")
        shape = tuple(self._size() for _ in range(rank))
        if prod(shape) > MAX_DIM:
            raise self._bad("its shape has more elements than a file can")
        kind, length = cursor.head()
        if kind not in ("str", "bytes") or length > _MAX_NAME:
            raise self._bad("its dtype is not a name")
        name = cursor.text(length).decode("latin-1")
        kind, length = cursor.head()
        if kind not in ("str", "bytes"):
            raise self._bad("its data is not bytes")
        return _Header(shape, name, cursor.skip(length), length)

    def _count(self, what: str) -> int:
        kind, count = self.cursor.head()
        if kind != "array":
            raise self._bad(f"there is no {what} in it")
        return int(count)

    def _size(self) -> int:
        kind, size = self.cursor.head()
        if kind != "value" or not is_size(size):
            raise self._bad("its shape has something else than sizes")
        return size

    def _check_size(self, header: _Header, dtype: DType) -> None:
        expected = prod(header.shape) * max(1, dtype.bits // 8)
        if header.length != expected:
            raise self._bad(f"it has {header.length:,} bytes, and its type and shape ask for {expected:,}")

    def _tensor(self, header: _Header, dtype: DType, *, swapped: bool) -> LazyTensor:
        self._tensors += 1
        if self._tensors > MAX_TENSORS:
            raise LimitError(f"the file has more than {MAX_TENSORS:,} arrays")
        info = TensorInfo.of(dtype, header.shape)
        span, alias = ByteSpan(self._source, header.start, header.length), (id(self._source), header.start)
        if dtype.bits < 8:
            return LazyTensor(info, Packed(SpanReader(span), dtype, info.numel), None, alias, (span,))
        return laid_out(info, span, alias, swapped=swapped)

    def _text(self, header: _Header, kind: str, bits: int) -> Value:
        """An array or a scalar of text, which is metadata. Reads the elements."""
        size, rest = divmod(bits, 32 if kind == "str" else 8)
        if rest or header.length != prod(header.shape) * bits // 8:
            raise self._bad(f"it has {header.length:,} bytes, which its type and shape do not ask for")
        descr = f"<U{size}" if kind == "str" else f"|S{size}"
        data = self.cursor.again(header.start, header.length)
        return NumpyArray(descr, header.shape, data) if header.shape else NumpyScalar(descr, data)

    def _complex(self) -> complex:
        if self._count("pair") != 2:
            raise self._bad("a complex number has two parts")
        parts = [self.cursor.head() for _ in range(2)]
        if any(kind != "value" or type(part) not in (int, float) for kind, part in parts):
            raise self._bad("the parts of a complex number are numbers")
        return complex(parts[0][1], parts[1][1])

    def _time(self, length: int) -> Opaque:
        cursor = self.cursor
        if length == 8:
            both = cursor.number(8)
            nanoseconds, seconds = both >> 34, both & ((1 << 34) - 1)
        elif length in (4, 12):
            nanoseconds = cursor.number(4) if length == 12 else 0
            seconds = cursor.number(length - 4, signed=True) if length == 12 else cursor.number(4)
        else:
            raise self._bad(f"a time has 4, 8 or 12 bytes, not {length:,}")
        if nanoseconds > 999_999_999:
            raise self._bad("a time has more nanoseconds than a second")
        return Opaque("msgpack.Timestamp", "constructed", (seconds, nanoseconds))

    def _join_chunks(self, parts: dict[str | bytes, Value]) -> LazyTensor | Opaque:
        """The tensor of an array in chunks. Raises CorruptFileError."""
        if parts.keys() != {CHUNKED, "shape", "chunks"}:
            raise self._bad("an array in chunks has a shape, chunks, and nothing else")
        shape, chunks = self._numbered_values(parts["shape"]), self._numbered_values(parts["chunks"])
        if not all(map(is_size, shape)) or len(shape) > MAX_RANK:
            raise self._bad("its shape has something else than sizes")
        if any(isinstance(chunk, Opaque) for chunk in chunks):
            return self._unread_chunks(tuple(shape), len(chunks))
        if not chunks or not all(isinstance(chunk, LazyTensor) and len(chunk.info.shape) == 1 for chunk in chunks):
            raise self._bad("its chunks are not arrays of one dimension")
        dtypes = {chunk.info.dtype for chunk in chunks}
        if len(dtypes) > 1:
            raise self._bad(f"its chunks are of several types: {', '.join(sorted(map(str, dtypes)))}")
        info = TensorInfo.of(dtypes.pop(), tuple(shape))
        numel = sum(chunk.info.numel for chunk in chunks)
        if numel != info.numel:
            raise self._bad(f"its chunks have {numel:,} elements, and its shape {info.numel:,}")
        if any(chunk.info.numel * info.dtype.bits % 8 for chunk in chunks[:-1]):
            raise self._bad("one of its chunks ends within a byte")
        pieces = Pieces([Piece(chunk, 0, chunk.info.nbytes) for chunk in chunks])
        return LazyTensor(info, pieces, None, chunks[0].alias, pieces.depends)

    def _unread_chunks(self, shape: tuple[int, ...], count: int) -> Opaque:
        """Replace `count` unread chunks by one unread array."""
        whole = self.place()
        kinds = [self.unread.pop(f"{whole}.chunks.{i}", "in chunks of several kinds") for i in range(count)]
        self.unread[whole] = kinds[0]
        return Opaque("numpy.ndarray", "unread", (shape, kinds[0]))

    def _numbered_values(self, entries: Value) -> list[Value]:
        """The items of a tuple, which Flax writes as a map with the keys "0", "1", …"""
        if not isinstance(entries, dict) or entries.keys() != {str(i) for i in range(len(entries))}:
            raise self._bad("an array in chunks has its sizes and its chunks under the keys '0', '1', …")
        return [entries[str(i)] for i in range(len(entries))]

    def _bad(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self.at()} is damaged: {what}")


def _element(name: str) -> tuple[DType | None, bool]:
    """The dtype of that name, None if it is unknown; and whether it is big-endian.

    Flax writes numpy's names; numpy, and so Flax's reader, also accepts the codes of the array protocol (``<f4``).
    """
    if name in NUMPY_NAMED:
        return NUMPY_NAMED[name], False
    descr = _DESCR.fullmatch(name)
    return (NUMPY_CODED.get(descr["word"]), descr["order"] == ">") if descr else (None, False)
