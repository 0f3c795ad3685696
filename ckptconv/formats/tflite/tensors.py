"""The constants of a model as tensors, quantized ones with their scales and zero points.

    w               the elements as they lie
    w.scale         F32 [C], one for each index of the quantized dimension; of the whole tensor one number, as F64 []
    w.zero_point    I64 [C] or I64 []

Where torch has such a quantized tensor (of I8, U8 and I32), the three are its parts. How others are quantized is
said in words: `scheme`, of a tensor or of what TensorFlow Lite calls its details.

Two tensors of one buffer, type, shape and quantization are the same tensor under two names.

Sources: tensorflow/lite/core/interpreter_builder.cc (`ParseTensors`, `ParseQuantization`), lite/core/subgraph.cc
(`BytesRequired`, `SetTensorParametersReadOnly`), lite/string_util.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from struct import iter_unpack, pack, unpack
from typing import TYPE_CHECKING

from ckptconv.core.composite import PER_CHANNEL, PER_TENSOR, VALUES, Quantized
from ckptconv.core.dtypes import DType
from ckptconv.core.names import numbered
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, in_file, in_memory
from ckptconv.errors import LimitError, UnsupportedError
from ckptconv.formats.tensors.headers import header_info
from ckptconv.formats.tensors.texts import MAX_TEXT_RANK, nested_texts
from ckptconv.formats.tflite.flatbuffer import I8, I32, U8, U32, U64, FlatBuffer, Table, Tables, Vector, bad
from ckptconv.formats.tflite.schema import DTYPES, Buffer, Details, Quantization, Tensor
from ckptconv.io.limits import MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ckptconv.core.metadata import MetaNode

QUANTIZED = {DType.I8: DType.QI8, DType.U8: DType.QU8, DType.I32: DType.QI32}
"""Integers of which torch has a quantized type."""

_SCHEMES = {Details.CUSTOM: "custom", Details.BLOCKWISE: "blockwise", Details.MULTI_AXIS: "multi_axis"}


class Buffers:
    """Where the buffers' bytes are; None: nowhere, as of what is computed."""

    def __init__(self, tables: Tables, size: int) -> None:
        self._tables, self._size = tables, size
        self._known: dict[int, Vector | None] = {0: None}

    def __getitem__(self, number: int) -> Vector | None:
        if number not in self._known:
            if number >= len(self._tables):
                raise bad(f"it has {len(self._tables):,} buffers, and number {number:,} is asked for")
            self._known[number] = self._find(number)
        return self._known[number]

    def _find(self, number: int) -> Vector | None:
        table = self._tables[number]
        data = table.vector(Buffer.DATA, 1)
        offset, size = table.number(Buffer.OFFSET, U64), table.number(Buffer.SIZE, U64)
        if data is not None or offset <= 1:  # a writer's placeholder is 1
            return data
        if size > self._size or offset > self._size - size:
            raise bad(
                f"the buffer {number:,} should end at byte {offset + size:,}, and the file does at {self._size:,}"
            )
        return Vector(offset, size, 1)


@dataclass(frozen=True, slots=True)
class Header:
    """A tensor that has data: its element type by number, its shape, where its bytes are, and how it is sparse."""

    name: str
    code: int
    shape: tuple[int, ...]
    data: Vector
    table: Table
    sparsity: Table | None

    @property
    def place(self) -> Hashable:
        """The same for tensors of one buffer, type and shape."""
        return self.data.start, self.code, self.shape


def read_header(table: Table, name: str, data: Vector) -> Header:
    """The header of a tensor. Raises UnsupportedError where its bytes are in another file."""
    if table.number(Tensor.EXTERNAL, U32):
        raise UnsupportedError(
            f"{name!r} is in an external buffer, outside of the file, which is not read",
            hint="write the model as one file",
        )
    shape = table.ints(Tensor.SHAPE)
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        raise bad(f"{name!r} has the shape {list(shape[:8])}")
    return Header(name, table.number(Tensor.TYPE, I8), shape, data, table, table.table(Tensor.SPARSITY))


def info_of(header: Header) -> TensorInfo:
    """Its type, shape and size. Raises UnsupportedError for a type that is not known."""
    return header_info(repr(header.name), header.code, header.shape, dtypes=DTYPES, library="LiteRT 2.3", bad=bad)


def dense(header: Header, alias: Hashable) -> LazyTensor:
    """The tensor that is where its buffer is. Raises CorruptFileError where it has another size."""
    info = info_of(header)
    if header.data.count != info.nbytes:
        raise bad(f"{header.name!r} holds {header.data.count:,} bytes, and {info.dtype} of shape {list(info.shape)} "
                  f"takes {info.nbytes:,}")  # fmt: skip
    return _run(header.table.buffer, info, header.data.start, alias)


def _run(buffer: FlatBuffer, info: TensorInfo, start: int, alias: Hashable) -> LazyTensor:
    return in_file(info, ByteSpan(buffer.source, start, info.nbytes), alias if info.nbytes else None)


@dataclass(frozen=True, slots=True)
class Affine:
    """The scales and zero points of a tensor, and the dimension along which they are; None: one for the whole."""

    scales: Vector
    points: Vector
    axis: int | None

    def read(self, buffer: FlatBuffer) -> tuple[Hashable, ...]:
        """What it says, to compare with another one's."""
        return self.axis, *(buffer.read(one.start, one.nbytes) for one in (self.scales, self.points))

    def parts(self, buffer: FlatBuffer, alias: Hashable) -> dict[str, LazyTensor]:
        """Scale and zero point as tensors."""
        aliases = {role: (alias, role) for role in ("scale", "zero_point")}
        if self.axis is None:
            (scale,) = unpack("<f", buffer.read(self.scales.start, 4))
            one = in_memory(TensorInfo.of(DType.F64, ()), pack("<d", scale), aliases["scale"])
            sizes: tuple[int, ...] = ()
        else:
            sizes = (self.scales.count,)
            one = _run(buffer, TensorInfo.of(DType.F32, sizes), self.scales.start, aliases["scale"])
        other = _run(buffer, TensorInfo.of(DType.I64, sizes), self.points.start, aliases["zero_point"])
        return {"scale": one, "zero_point": other}

    def composite(self, names: dict[str, str], info: TensorInfo) -> Quantized | None:
        """What values, scale and zero point make; None where torch has nothing like it."""
        if info.dtype not in QUANTIZED:
            return None
        return Quantized(names, info.shape, QUANTIZED[info.dtype], self.scheme, self.axis)

    @property
    def scheme(self) -> str:
        """As torch calls it."""
        return PER_TENSOR if self.axis is None else PER_CHANNEL


def is_scaled(dtype: DType) -> bool:
    """Whether scales say something of such elements: integers, and floats of 8 bits."""
    return dtype.kind in ("int", "uint") or (dtype.kind == "float" and dtype.bits <= 8)


def affine(header: Header, table: Table) -> Affine | None:
    """The scales of a tensor, if it has any. Raises CorruptFileError where they do not fit it."""
    scales, points = table.vector(Quantization.SCALES, 4), table.vector(Quantization.ZERO_POINTS, 8)
    if table.number(Quantization.KIND, U8) or scales is None or not scales.count:
        return None
    if points is None or points.count != scales.count:
        raise bad(f"{header.name!r} has {scales.count:,} scales and {points.count if points else 0:,} zero points")
    if scales.count == 1:
        return Affine(scales, points, None)
    axis = table.number(Quantization.AXIS, I32)
    if not 0 <= axis < len(header.shape) or header.shape[axis] != scales.count:
        raise bad(f"{header.name!r} of shape {list(header.shape)} has {scales.count:,} scales along dimension {axis}")
    return Affine(scales, points, axis)


def in_words(table: Table, name_of: Callable[[int], str | None], text: Callable[[Vector], bytes]) -> MetaNode:
    """What the details of a quantization say; None where there are none. Other tensors are called by their names."""
    kind, details = table.number(Quantization.KIND, U8), table.table(Quantization.DETAILS)
    if not kind or details is None:
        return None
    if kind not in _SCHEMES:
        return {"scheme": f"details of type {kind}"}
    said: dict[str, MetaNode] = {"scheme": _SCHEMES[kind]}
    if kind == Details.CUSTOM:
        custom = details.vector(0, 1)
        return said | {"custom": text(custom) if custom else b""}
    for key, field in (("scales", Details.SCALES), ("zero_points", Details.ZERO_POINTS)):
        number = details.number(field, I32)
        if (number or field == Details.SCALES) and (name := name_of(number)):  # 0 is what is left out
            said[key] = name
    said["block_size"] = details.number(Details.BLOCK_SIZE, I32)
    if dimensions := details.ints(Details.DIMENSIONS):
        said["block_shape" if kind == Details.BLOCKWISE else "axes"] = list(dimensions)
    if kind == Details.BLOCKWISE:
        said["axis"] = table.number(Quantization.AXIS, I32)
    return said


def texts(header: Header, data: bytes) -> MetaNode:
    """The strings of a tensor, as lists of lists of bytes.

    Its data: their number, the offset of each, that of the end, all as i32, and their bytes.
    """
    if len(data) < 4:
        raise bad(f"{header.name!r} is a tensor of strings in {len(data)} bytes")
    (count,) = unpack("<i", data[:4])
    if count < 0 or count != prod(header.shape) or 4 * (count + 2) > len(data):
        raise bad(f"{header.name!r} of shape {list(header.shape)} has {count:,} strings in {len(data):,} bytes")
    places = [place for (place,) in iter_unpack("<i", data[4 : 4 * (count + 2)])]
    if places != sorted(places) or not 4 * (count + 2) <= places[0] or places[-1] > len(data):
        raise bad(f"the strings of {header.name!r} lie outside of it")
    found = [data[start:stop] for start, stop in pairwise(places)]
    if len(header.shape) > MAX_TEXT_RANK:
        raise LimitError(f"{header.name!r} has {len(header.shape)} dimensions of texts")
    return nested_texts(found, header.shape) if found else []


def part_names(name: str, taken: set[str]) -> dict[str, str]:
    """Names for the parts of a quantized tensor, none of which is taken."""
    names = {VALUES: name}
    for role in ("scale", "zero_point"):
        names[role] = numbered(f"{name}.{role}", taken)
        taken.add(names[role])
    return names
