"""A tree as Flax's msgpack: the heads, and where between them the elements of its arrays go.

The bytes are those of ``flax.serialization.msgpack_serialize``: each object in the shortest form that it has, floats in
eight bytes, arrays of more than 2^30 bytes in chunks. How they look stands in `msgpack` and `arrays`.
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
"""Bytes of an array past which Flax cuts it (``flax.serialization.MAX_CHUNK_SIZE``)."""

MAX_ALONE = (1 << 32) - 4096
"""Bytes of an array in a list, which Flax does not cut: msgpack counts in 32 bits."""

_FIXED_EXTENSION = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}


def _sized(count: int, short: int | None, most: int, codes: tuple[int | None, int, int]) -> bytes:
    """The head of something that has a length: `short` with lengths up to `most` in it, or a code for 1, 2, 4 bytes."""
    if short is not None and count <= most:
        return bytes([short | count])
    for code, width in zip(codes, (1, 2, 4), strict=True):
        if code is not None and count < 1 << 8 * width:
            return bytes([code]) + count.to_bytes(width, "big")
    raise ValueError("msgpack counts in 32 bits")


def spell_map(count: int) -> bytes:
    """The head of a map of so many pairs."""
    return _sized(count, 0x80, 15, (None, 0xDE, 0xDF))


def spell_array(count: int) -> bytes:
    """The head of an array of so many objects."""
    return _sized(count, 0x90, 15, (None, 0xDC, 0xDD))


def spell_bytes(count: int) -> bytes:
    """The head of so many bytes."""
    return _sized(count, None, 0, (0xC4, 0xC5, 0xC6))


def spell_text(text: str) -> bytes:
    """A string."""
    raw = text.encode("utf-8")
    return _sized(len(raw), 0xA0, 31, (0xD9, 0xDA, 0xDB)) + raw


def spell_extension(code: Type, count: int) -> bytes:
    """The head of an extension of so many bytes."""
    if count in _FIXED_EXTENSION:
        return bytes([_FIXED_EXTENSION[count], code])
    return _sized(count, None, 0, (0xC7, 0xC8, 0xC9)) + bytes([code])


def spell_int(value: int) -> bytes:
    """An integer from -2^63 to 2^64 - 1."""
    if -32 <= value < 128:
        return pack(">b", value)
    signed = value < 0
    for code, width in zip((0xD0, 0xD1, 0xD2, 0xD3) if signed else (0xCC, 0xCD, 0xCE, 0xCF), (1, 2, 4, 8), strict=True):
        if width == 8 or -(1 << 8 * width - 1) <= value < 1 << 8 * width:
            return bytes([code]) + value.to_bytes(width, "big", signed=signed)
    raise AssertionError


def spell_plain(value: Value) -> bytes:
    """A value that is neither a container nor an array of numbers."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return spell_int(value)
        case float():
            return pack(">Bd", 0xCB, value)
        case str():
            return spell_text(value)
        case bytes():
            return spell_bytes(len(value)) + value
        case complex():
            parts = spell_array(2) + spell_plain(value.real) + spell_plain(value.imag)
            return spell_extension(Type.COMPLEX, len(parts)) + parts
        case NumpyScalar(descr, data):
            return _array_head(Type.SCALAR, (), numpy_name(descr), len(data)) + data
        case NumpyArray(descr, shape, data):
            return _array_head(Type.ARRAY, shape, numpy_name(descr), len(data)) + data
        case _:
            raise TypeError(f"msgpack has no {type(value).__name__}")


def numpy_name(descr: str) -> str:
    """The name that numpy has for an element type by its word for it: ``<f4`` is ``float32``, ``<U3`` is ``str96``."""
    from ckptconv.core.arrays import NUMPY_CODED

    if descr[1:] in NUMPY_CODED:
        return NAMES[NUMPY_CODED[descr[1:]]]
    kind, size = ("str", 32) if descr[1] == "U" else ("bytes", 8)
    return f"{kind}{size * int(descr[2:])}"


def _array_head(code: Type, shape: tuple[int, ...], name: str, nbytes: int) -> bytes:
    """What comes before the elements of an array or a scalar."""
    sizes = spell_array(len(shape)) + b"".join(map(spell_int, shape))
    inner = spell_array(3) + sizes + spell_text(name) + spell_bytes(nbytes)
    return spell_extension(code, len(inner) + nbytes) + inner


def file_bytes(info: TensorInfo) -> int:
    """Bytes of an array's elements in the file, where those under 8 bits take one each."""
    return info.numel if info.dtype.bits < 8 else info.nbytes


@dataclass(slots=True)
class Packed:
    """A file as it will be.

    heads: where pieces of it go that are not elements. tensors: its arrays, in their order.
    runs:  the elements, which count through all arrays: (the first's place in that count, its place in the file).
    """

    heads: list[tuple[int, bytes]] = field(default_factory=list)
    tensors: list[LazyTensor] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)
    size: int = 0


def packed(value: Value) -> Packed:
    """The file of a tree of dicts, lists, plain values, and a `LazyTensor` for each array."""
    packer = _Packer()
    packer.value(value, cut=True)
    packer.flush()
    return packer.made


class _Packer:
    def __init__(self) -> None:
        self.made = Packed()
        self._head = bytearray()
        self._elements = 0

    def value(self, value: Value, *, cut: bool) -> None:
        """`cut`: whether an array in this place is cut into chunks where it is large."""
        match value:
            case LazyTensor():
                self._tensor(value, cut=cut)
            case dict():
                self._head += spell_map(len(value))
                for key, child in value.items():
                    self._head += spell_plain(key)
                    self.value(child, cut=True)
            case list():
                self._head += spell_array(len(value))
                for child in value:
                    self.value(child, cut=False)
            case _:
                self._head += spell_plain(value)

    def flush(self) -> None:
        """Give the pieces so far their place."""
        self.made.heads.append((self.made.size, bytes(self._head)))
        self.made.size += len(self._head)
        self._head.clear()

    def _tensor(self, tensor: LazyTensor, *, cut: bool) -> None:
        info, nbytes = tensor.info, file_bytes(tensor.info)
        self.made.tensors.append(tensor)
        if cut and nbytes > MAX_CHUNK:
            self._chunks(info, nbytes)
        else:
            self._array(info.shape, NAMES[info.dtype], nbytes)

    def _chunks(self, info: TensorInfo, nbytes: int) -> None:
        itemsize = nbytes // info.numel
        step = max(1, MAX_CHUNK // itemsize)
        self._head += spell_map(3) + spell_text(CHUNKED) + spell_plain(True)
        self._head += spell_text("shape") + spell_map(len(info.shape))
        for axis, size in enumerate(info.shape):
            self._head += spell_text(str(axis)) + spell_int(size)
        self._head += spell_text("chunks") + spell_map(-(-info.numel // step))
        for number, start in enumerate(range(0, info.numel, step)):
            count = min(step, info.numel - start)
            self._head += spell_text(str(number))
            self._array((count,), NAMES[info.dtype], count * itemsize)

    def _array(self, shape: tuple[int, ...], name: str, nbytes: int) -> None:
        self._head += _array_head(Type.ARRAY, shape, name, nbytes)
        if nbytes:
            self.flush()
            self.made.runs.append((self._elements, self.made.size))
            self.made.size += nbytes
            self._elements += nbytes


class Between:
    """Takes elements, which count through all arrays, to where they lie between the heads."""

    def __init__(self, target: Written, runs: Iterable[tuple[int, int]]) -> None:
        self._target = target
        self._runs = list(runs)
        self._starts: list[Any] = [start for start, _ in self._runs]

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write elements from number `offset` on."""
        view = memoryview(data)
        at = bisect_right(self._starts, offset) - 1
        while view:
            start, place = self._runs[at]
            at += 1
            room = self._starts[at] - offset if at < len(self._starts) else len(view)
            self._target.write_at(place + offset - start, view[:room])
            offset, view = offset + len(view[:room]), view[room:]
