"""The constants of a model as tensors, quantized ones with their scales and zero points.

    w               the elements as they are stored
    w.scale         F32 [C], one for each index of the quantized dimension; or F64 [], one for the whole tensor
    w.zero_point    I64 [C] or I64 []

If torch has such a quantized tensor (of I8, U8 and I32), the three are its parts. How others are quantized is described
in the metadata: `scheme`, and what TensorFlow Lite calls the details.

Two tensors with the same buffer, type, shape and quantization are one tensor under two names.

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
"""The integer types for which torch has a quantized type."""

_SCHEMES = {Details.CUSTOM: "custom", Details.BLOCKWISE: "blockwise", Details.MULTI_AXIS: "multi_axis"}


class Buffers:
    """Where the data of each buffer is; None if it has none, as for computed tensors."""

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
        if data is not None or offset <= 1:  # writers use 1 as a placeholder
            return data
        if size > self._size or offset > self._size - size:
            raise bad(
                f"the buffer {number:,} should end at byte {offset + size:,}, and the file does at {self._size:,}"
            )
        return Vector(offset, size, 1)


@dataclass(frozen=True, slots=True)
class Header:
    """A tensor that has data.

    code:     its element type.
    data:     where its bytes are.
    sparsity: how they are arranged, if it is sparse.
    """

    name: str
    code: int
    shape: tuple[int, ...]
    data: Vector
    table: Table
    sparsity: Table | None

    @property
    def place(self) -> Hashable:
        """Equal for tensors with the same buffer, type and shape."""
        return self.data.start, self.code, self.shape


def read_header(table: Table, name: str, data: Vector) -> Header:
    """Read the header of a tensor. Raises UnsupportedError if its data is in another file."""
    if table.number(Tensor.EXTERNAL, U32):
        raise UnsupportedError(
            f"{name!r} is in an external buffer, outside of the file, which is not read",
            hint="write the model as one file",
        )
    shape = table.ints(Tensor.SHAPE)
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        raise bad(f"{name!r} has the shape {list(shape[:8])}")
    return Header(name, table.number(Tensor.TYPE, I8), shape, data, table, table.table(Tensor.SPARSITY))


def tensor_info(header: Header) -> TensorInfo:
    """The tensor's type, shape and size. Raises UnsupportedError for an unknown type."""
    return header_info(repr(header.name), header.code, header.shape, dtypes=DTYPES, library="LiteRT 2.3", bad=bad)


def build_dense(header: Header, alias: Hashable) -> LazyTensor:
    """Make a tensor whose elements are its buffer's bytes. Raises CorruptFileError if the buffer has another size."""
    info = tensor_info(header)
    if header.data.count != info.nbytes:
        raise bad(f"{header.name!r} holds {header.data.count:,} bytes, and {info.dtype} of shape {list(info.shape)} "
                  f"takes {info.nbytes:,}")  # fmt: skip
    return _tensor_in_file(header.table.buffer, info, header.data.start, alias)


def _tensor_in_file(buffer: FlatBuffer, info: TensorInfo, start: int, alias: Hashable) -> LazyTensor:
    return in_file(info, ByteSpan(buffer.source, start, info.nbytes), alias if info.nbytes else None)


@dataclass(frozen=True, slots=True)
class Affine:
    """The scales and zero points of a tensor, and the dimension along which they differ; None: one for the whole."""

    scales: Vector
    points: Vector
    axis: int | None

    def read(self, buffer: FlatBuffer) -> tuple[Hashable, ...]:
        """The values, to compare with those of another tensor."""
        return self.axis, *(buffer.read(vector.start, vector.nbytes) for vector in (self.scales, self.points))

    def parts(self, buffer: FlatBuffer, alias: Hashable) -> dict[str, LazyTensor]:
        """The scale and the zero point as tensors."""
        if self.axis is None:
            shape: tuple[int, ...] = ()
            (value,) = unpack("<f", buffer.read(self.scales.start, 4))
            scale = in_memory(TensorInfo.of(DType.F64, shape), pack("<d", value), (alias, "scale"))
        else:
            shape = (self.scales.count,)
            scale = _tensor_in_file(buffer, TensorInfo.of(DType.F32, shape), self.scales.start, (alias, "scale"))
        info = TensorInfo.of(DType.I64, shape)
        return {
            "scale": scale,
            "zero_point": _tensor_in_file(buffer, info, self.points.start, (alias, "zero_point")),
        }

    def composite(self, names: dict[str, str], info: TensorInfo) -> Quantized | None:
        """The quantized tensor of values, scale and zero point; None if torch has no such type."""
        if info.dtype not in QUANTIZED:
            return None
        return Quantized(names, info.shape, QUANTIZED[info.dtype], self.scheme, self.axis)

    @property
    def scheme(self) -> str:
        """The scheme, in torch's terms."""
        return PER_TENSOR if self.axis is None else PER_CHANNEL


def is_scaled(dtype: DType) -> bool:
    """Whether scales apply to such elements: integers, and floats of at most 8 bits."""
    return dtype.kind in ("int", "uint") or (dtype.kind == "float" and dtype.bits <= 8)


def read_affine(header: Header, table: Table) -> Affine | None:
    """The scales of a tensor, if it has any. Raises CorruptFileError if they do not fit it."""
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


def describe_quantization(
    table: Table, name_of: Callable[[int], str | None], text: Callable[[Vector], bytes]
) -> MetaNode:
    """The details of a quantization as metadata; None if there are none.

    name_of: the name of a tensor by its number; None if it does not belong to the model.
    text:    reads bytes.
    """
    kind, details = table.number(Quantization.KIND, U8), table.table(Quantization.DETAILS)
    if not kind or details is None:
        return None
    if kind not in _SCHEMES:
        return {"scheme": f"details of type {kind}"}
    described: dict[str, MetaNode] = {"scheme": _SCHEMES[kind]}
    if kind == Details.CUSTOM:
        custom = details.vector(0, 1)
        return described | {"custom": text(custom) if custom else b""}
    for key, field in (("scales", Details.SCALES), ("zero_points", Details.ZERO_POINTS)):
        number = details.number(field, I32)
        if (number or field == Details.SCALES) and (name := name_of(number)):  # 0: there are no zero points
            described[key] = name
    described["block_size"] = details.number(Details.BLOCK_SIZE, I32)
    if dimensions := details.ints(Details.DIMENSIONS):
        described["block_shape" if kind == Details.BLOCKWISE else "axes"] = list(dimensions)
    if kind == Details.BLOCKWISE:
        described["axis"] = table.number(Quantization.AXIS, I32)
    return described


def read_strings(header: Header, data: bytes) -> MetaNode:
    """Read the strings of a tensor, as nested lists of bytes.

    The data: the number of strings, the offset of each, the offset of the end, all as i32; then the strings' bytes.
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
    """Unique names for the parts of a quantized tensor; adds them to `taken`."""
    names = {VALUES: name}
    for role in ("scale", "zero_point"):
        names[role] = numbered(f"{name}.{role}", taken)
        taken.add(names[role])
    return names
