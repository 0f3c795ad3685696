"""Lays out a tree as Flax's msgpack: encodes the heads, and decides where between them elements go.

The bytes equal those of ``flax.serialization.msgpack_serialize``: the shortest form of each object, floats of eight
bytes, arrays of more than 2^30 bytes in chunks. `cursor` and `arrays` describe them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from struct import pack
from typing import TYPE_CHECKING, Any

from ckptconv.core.metadata import NumpyArray, NumpyScalar
from ckptconv.core.tensor import LazyTensor
from ckptconv.formats.flax.arrays import CHUNKED, Type
from ckptconv.formats.flax.stored import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.formats.flax.msgpack import Value
    from ckptconv.io.stream import Written

MAX_CHUNK = 1 << 30
"""Flax splits larger arrays, in bytes (``flax.serialization.MAX_CHUNK_SIZE``)."""

MAX_ALONE = (1 << 32) - 4096
"""The largest array in a list, in bytes: Flax does not split it, and msgpack's lengths have 32 bits."""

_FIXED_EXTENSION = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}


def _sized(count: int, short: int | None, most: int, codes: tuple[int | None, int, int]) -> bytes:
    """A head with a length: `short` combined with lengths up to `most`, else a code for a length of 1, 2 or 4 bytes."""
    if short is not None and count <= most:
        return bytes([short | count])
    for code, width in zip(codes, (1, 2, 4), strict=True):
        if code is not None and count < 1 << 8 * width:
            return bytes([code]) + count.to_bytes(width, "big")
    raise ValueError("msgpack counts in 32 bits")


def encode_map(count: int) -> bytes:
    """The head of a map of `count` pairs."""
    return _sized(count, 0x80, 15, (None, 0xDE, 0xDF))


def encode_array(count: int) -> bytes:
    """The head of an array of `count` objects."""
    return _sized(count, 0x90, 15, (None, 0xDC, 0xDD))


def encode_bytes(count: int) -> bytes:
    """The head of `count` bytes."""
    return _sized(count, None, 0, (0xC4, 0xC5, 0xC6))


def encode_text(text: str) -> bytes:
    """A string."""
    raw = text.encode("utf-8")
    return _sized(len(raw), 0xA0, 31, (0xD9, 0xDA, 0xDB)) + raw


def encode_extension(code: Type, count: int) -> bytes:
    """The head of an extension of `count` bytes."""
    if count in _FIXED_EXTENSION:
        return bytes([_FIXED_EXTENSION[count], code])
    return _sized(count, None, 0, (0xC7, 0xC8, 0xC9)) + bytes([code])


def encode_int(value: int) -> bytes:
    """An integer from -2^63 to 2^64 - 1."""
    if -32 <= value < 128:
        return pack(">b", value)
    signed = value < 0
    for code, width in zip((0xD0, 0xD1, 0xD2, 0xD3) if signed else (0xCC, 0xCD, 0xCE, 0xCF), (1, 2, 4, 8), strict=True):
        if width == 8 or -(1 << 8 * width - 1) <= value < 1 << 8 * width:
            return bytes([code]) + value.to_bytes(width, "big", signed=signed)
    raise AssertionError


def encode_plain(value: Value) -> bytes:
    """A value that is neither a container nor an array of numbers."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return encode_int(value)
        case float():
            return pack(">Bd", 0xCB, value)
        case str():
            return encode_text(value)
        case bytes():
            return encode_bytes(len(value)) + value
        case complex():
            parts = encode_array(2) + encode_plain(value.real) + encode_plain(value.imag)
            return encode_extension(Type.COMPLEX, len(parts)) + parts
        case NumpyScalar(descr, data):
            return _array_head(Type.SCALAR, (), numpy_name(descr), len(data)) + data
        case NumpyArray(descr, shape, data):
            return _array_head(Type.ARRAY, shape, numpy_name(descr), len(data)) + data
        case _:
            raise TypeError(f"msgpack has no {type(value).__name__}")


def numpy_name(descr: str) -> str:
    """Numpy's name for an element type, from its code: ``float32`` for ``<f4``, ``str96`` for ``<U3``."""
    from ckptconv.core.arrays import NUMPY_CODED

    if descr[1:] in NUMPY_CODED:
        return NAMES[NUMPY_CODED[descr[1:]]]
    kind, size = ("str", 32) if descr[1] == "U" else ("bytes", 8)
    return f"{kind}{size * int(descr[2:])}"


def _array_head(code: Type, shape: tuple[int, ...], name: str, nbytes: int) -> bytes:
    """The bytes before the elements of an array or a scalar."""
    sizes = encode_array(len(shape)) + b"".join(map(encode_int, shape))
    inner = encode_array(3) + sizes + encode_text(name) + encode_bytes(nbytes)
    return encode_extension(code, len(inner) + nbytes) + inner


def file_bytes(info: TensorInfo) -> int:
    """The size of an array's elements in the file, where those of fewer than 8 bits take a byte each."""
    return info.numel if info.dtype.bits < 8 else info.nbytes


@dataclass(slots=True)
class FileLayout:
    """The layout of a file to be written.

    heads:   the pieces that are not elements, with their offsets.
    tensors: the arrays, in order.
    runs:    where elements go: offsets in the concatenation of all arrays' elements, and in the file.
    """

    heads: list[tuple[int, bytes]] = field(default_factory=list)
    tensors: list[LazyTensor] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)
    size: int = 0


def lay_out(value: Value) -> FileLayout:
    """Lay out a tree of dicts, lists and plain values, with a `LazyTensor` for each array."""
    packer = _Packer()
    packer.add(value, splits=True)
    packer.flush()
    return packer.layout


class _Packer:
    def __init__(self) -> None:
        self.layout = FileLayout()
        self._head = bytearray()
        self._elements = 0

    def add(self, value: Value, *, splits: bool) -> None:
        """Add a value. `splits`: whether Flax splits a large array here into chunks."""
        match value:
            case LazyTensor():
                self._add_tensor(value, splits=splits)
            case dict():
                self._head += encode_map(len(value))
                for key, child in value.items():
                    self._head += encode_plain(key)
                    self.add(child, splits=True)
            case list():
                self._head += encode_array(len(value))
                for child in value:
                    self.add(child, splits=False)
            case _:
                self._head += encode_plain(value)

    def flush(self) -> None:
        """Place the heads that were collected so far."""
        self.layout.heads.append((self.layout.size, bytes(self._head)))
        self.layout.size += len(self._head)
        self._head.clear()

    def _add_tensor(self, tensor: LazyTensor, *, splits: bool) -> None:
        info, nbytes = tensor.info, file_bytes(tensor.info)
        self.layout.tensors.append(tensor)
        if splits and nbytes > MAX_CHUNK:
            self._add_chunks(info, nbytes)
        else:
            self._add_array(info.shape, NAMES[info.dtype], nbytes)

    def _add_chunks(self, info: TensorInfo, nbytes: int) -> None:
        itemsize = nbytes // info.numel
        step = max(1, MAX_CHUNK // itemsize)
        self._head += encode_map(3) + encode_text(CHUNKED) + encode_plain(True)
        self._head += encode_text("shape") + encode_map(len(info.shape))
        for axis, size in enumerate(info.shape):
            self._head += encode_text(str(axis)) + encode_int(size)
        self._head += encode_text("chunks") + encode_map(-(-info.numel // step))
        for number, start in enumerate(range(0, info.numel, step)):
            count = min(step, info.numel - start)
            self._head += encode_text(str(number))
            self._add_array((count,), NAMES[info.dtype], count * itemsize)

    def _add_array(self, shape: tuple[int, ...], name: str, nbytes: int) -> None:
        self._head += _array_head(Type.ARRAY, shape, name, nbytes)
        if nbytes:
            self.flush()
            self.layout.runs.append((self._elements, self.layout.size))
            self.layout.size += nbytes
            self._elements += nbytes


class ElementTarget:
    """Writes the concatenated elements of all arrays to their places between the heads."""

    def __init__(self, target: Written, runs: Iterable[tuple[int, int]]) -> None:
        self._target = target
        self._runs = list(runs)
        self._starts: list[Any] = [start for start, _ in self._runs]

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write elements, from `offset` in the concatenation on."""
        view = memoryview(data)
        at = bisect_right(self._starts, offset) - 1
        while view:
            start, place = self._runs[at]
            at += 1
            room = self._starts[at] - offset if at < len(self._starts) else len(view)
            self._target.write_at(place + offset - start, view[:room])
            offset, view = offset + len(view[:room]), view[room:]
