"""Sparse tensors, read as the dense tensors that they stand for (as the operator DENSIFY makes them).

    order      a permutation of the n dimensions, then one of the k dimensions within a block, numbered from n
    block map  for each dimension of a block, which of the n it divides
    levels     for each dimension, in this order: dense, with a size; or CSR, with a vector of segments (where those of
               each entry of the level before start, and where the last ones end) and a vector of coordinates
    buffer     the values, one for each entry of the last level

The vectors are i32, u16 or u8. Source: the schema's comments; tensorflow/lite/kernels/internal/utils/
sparsity_format_converter.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.strided import contiguous_strides
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo
from ckptconv.errors import LimitError, UnsupportedError
from ckptconv.formats.tflite.flatbuffer import I8, I32, U8, Table, Vector, bad
from ckptconv.formats.tflite.schema import Sparsity
from ckptconv.formats.tflite.tensors import Header, tensor_info
from ckptconv.io.limits import MAX_INFLATED_RATIO, MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ckptconv.core.arrays import Array
    from ckptconv.core.tensor import SpanFile

_WIDTHS = {1: 4, 2: 2, 3: 1}
"""The bytes of an index, by the type of the vector."""

MAX_VALUES = 1 << 24
"""The most values of a sparse tensor; each takes some 30 bytes of memory while it is read."""


@dataclass(frozen=True, slots=True)
class Level:
    """A dimension, in the order of storage.

    size:              how many entries there are below each entry of the level before; at most so many in a CSR level.
    stride:            how far these are apart in the dense tensor, in elements.
    segments, indices: the vectors of a CSR level.
    """

    size: int
    stride: int
    segments: Vector | None = None
    indices: Vector | None = None


def build_sparse(header: Header, table: Table, alias: Hashable) -> LazyTensor:
    """Make the dense tensor. The vectors are read, and checked, together with the values."""
    info = tensor_info(header)
    if info.dtype.bits < 8:
        raise UnsupportedError(
            f"{header.name!r} is a sparse tensor of {info.dtype}, which is not read", hint="convert the model densely"
        )
    levels = _levels(header, table, info)
    entries = _entries(header, levels)
    width = info.dtype.bits // 8
    if entries * width != header.data.count:
        raise bad(
            f"{header.name!r} holds {header.data.count:,} bytes, and its {entries:,} values take {entries * width:,}"
        )
    vectors = [vector for level in levels for vector in (level.segments, level.indices) if vector]
    stored = header.data.count + sum(vector.nbytes for vector in vectors)
    if info.nbytes > stored * MAX_INFLATED_RATIO:
        raise _too_many(header, entries)
    span = ByteSpan(table.buffer.source, header.data.start, header.data.count)
    reader = Scatter(header.name, info, span, tuple(levels))
    return LazyTensor(info, reader, None, alias if info.nbytes else None, (span,))


def _entries(header: Header, levels: list[Level]) -> int:
    """The number of entries in the last level. Raises CorruptFileError if segments do not fit the level before."""
    entries = 1
    for level in levels:
        if level.segments and level.segments.count != entries + 1:
            raise bad(f"the sparse tensor {header.name!r} has segments that do not fit its shape")
        entries = level.indices.count if level.indices else entries * level.size
        if entries > MAX_VALUES:
            raise _too_many(header, entries)
    return entries


def _too_many(header: Header, entries: int) -> LimitError:
    shape = list(header.shape)
    return LimitError(f"{header.name!r} of shape {shape} is sparse, of {entries:,} values")


def _levels(header: Header, table: Table, info: TensorInfo) -> list[Level]:
    order, blocks = table.ints(Sparsity.ORDER), table.ints(Sparsity.BLOCK_MAP)
    tables = table.tables(Sparsity.DIMENSIONS)
    rank = len(info.shape)
    is_permutation = sorted(order[:rank]) == list(range(rank)) and sorted(order) == list(range(rank + len(blocks)))
    is_mapped = len(set(blocks)) == len(blocks) and all(0 <= dim < rank for dim in blocks)
    if not is_permutation or not is_mapped or len(tables) != len(order) or len(order) > 2 * MAX_RANK:
        raise bad(f"{header.name!r} is a sparse tensor of dimensions in no order")
    table_of = dict(zip(order, tables, strict=True))
    block_sizes = {dim: table_of[rank + i].number(Sparsity.SIZE, I32) for i, dim in enumerate(blocks)}
    if any(size < 1 or info.shape[dim] % size for dim, size in block_sizes.items()):
        raise bad(f"{header.name!r} is a sparse tensor that is not a whole number of blocks")
    strides = contiguous_strides(info.shape)
    levels = []
    for dim, level in table_of.items():
        if dim < rank:
            block = block_sizes.get(dim, 1)
            levels.append(_read_level(header, level, info.shape[dim] // block, strides[dim] * block))
        else:
            divided = blocks[dim - rank]
            levels.append(_read_level(header, level, block_sizes[divided], strides[divided]))
    return levels


def _read_level(header: Header, table: Table, size: int, stride: int) -> Level:
    if table.number(Sparsity.FORMAT, I8) != Sparsity.CSR:
        if table.number(Sparsity.SIZE, I32) != size:
            raise bad(f"{header.name!r} is a sparse tensor of other sizes than its shape")
        return Level(size, stride)
    segments = _index_vector(header, table, Sparsity.SEGMENTS_KIND, Sparsity.SEGMENTS)
    return Level(size, stride, segments, _index_vector(header, table, Sparsity.INDICES_KIND, Sparsity.INDICES))


def _index_vector(header: Header, table: Table, kind: int, field: int) -> Vector:
    width, holder = _WIDTHS.get(table.number(kind, U8)), table.table(field)
    if width is None or holder is None:
        raise bad(f"{header.name!r} is a sparse tensor without its indices")
    return holder.vector(0, width) or Vector(0, 0, width)


@dataclass(frozen=True, slots=True)
class Scatter:
    """Reads ranges of the dense tensor; each read computes the positions of all values."""

    name: str
    info: TensorInfo
    values: ByteSpan
    levels: tuple[Level, ...]

    def __call__(self, start: int, stop: int) -> memoryview:
        import numpy as np

        width = self.info.dtype.bits // 8
        first, last = start // width, -(-stop // width)
        positions = self._positions()
        inside = (positions >= first) & (positions < last)
        raw = self.values.file.read_at(self.values.offset, self.values.length)
        image = np.zeros((last - first, width), np.uint8)
        image[positions[inside] - first] = np.frombuffer(raw, np.uint8).reshape(-1, width)[inside]
        begin = start - first * width
        return image.reshape(-1).data[begin : begin + stop - start]

    def _positions(self) -> Array:
        """The position of each value in the dense tensor, in elements."""
        import numpy as np

        positions = np.zeros(1, np.int64)
        for level in self.levels:
            if level.segments is None or level.indices is None:
                steps = np.arange(level.size) * level.stride
                positions = (positions[:, None] + steps).reshape(-1)
                continue
            segments = _read_indices(self.values.file, level.segments)
            indices = _read_indices(self.values.file, level.indices)
            counts = np.diff(segments)
            if segments[0] or segments[-1] != len(indices) or (counts < 0).any():
                raise bad(f"the segments of the sparse tensor {self.name!r} do not fit its coordinates")
            if len(indices) and not 0 <= indices.min() <= indices.max() < level.size:
                raise bad(f"the sparse tensor {self.name!r} has coordinates outside of its shape")
            positions = np.repeat(positions, counts) + indices * level.stride
        return positions


def _read_indices(file: SpanFile, vector: Vector) -> Array:
    import numpy as np

    kind = {4: "<i4", 2: "<u2", 1: "u1"}[vector.width]
    return np.frombuffer(file.read_at(vector.start, vector.nbytes), kind).astype(np.int64)
