"""Casts tensors to another element type, without reading them.

A tensor is cast (`edits.rounding`) block by block while it is read, which takes memory for a block at any size. What
each block lost is noted by block, so that reading twice counts once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.edits.computed import BLOCK, Computed
from ckptconv.edits.ggml.quantize import quantized
from ckptconv.edits.ggml.unpack import unpacked
from ckptconv.edits.rounding import Loss, cast_array
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


FLOATS = (
    DType.F64, DType.F32, DType.F16, DType.BF16, DType.F8_E5M2, DType.F8_E4M3, DType.F8_E5M2FNUZ, DType.F8_E4M3FNUZ,
    DType.F8_E8M0, DType.F6_E2M3, DType.F6_E3M2, DType.F4,
)  # fmt: skip


@dataclass
class BlockReader(Computed, ABC):
    """A reader that computes each element from the source's element at the same place."""

    @abstractmethod
    def compute(self, values: Array) -> tuple[Array, Loss]:
        """The new values for some values of the source, and what was lost."""

    @abstractmethod
    def applied_to(self, source: LazyTensor) -> LazyTensor:
        """Another tensor, computed in the same way."""

    def __call__(self, start: int, stop: int) -> memoryview:
        bits = self.dtype.bits
        # from and to multiples of 8 elements, which are whole bytes of both types
        first = start * 8 // bits // 8 * 8
        last = min(-(-stop * 8 // bits // 8) * 8, self.source.info.numel)
        wide = self.source.info.dtype.bits
        result = bytearray()
        for at in range(first, last, self.piece):
            end = min(at + self.piece, last)
            data = self.source.read(at * wide // 8, -(-end * wide // 8))
            for low in range(at, end, BLOCK):
                high = min(low + BLOCK, end)
                result += self._block(data[(low - at) * wide // 8 : -(-(high - at) * wide // 8)], low, high)
        base = first * bits // 8
        return memoryview(result)[start - base : stop - base]

    def _block(self, data: memoryview, first: int, last: int) -> bytes:
        from ckptconv.core.arrays import from_bytes, to_bytes

        result, loss = self.compute(from_bytes(data, self.source.info.dtype, last - first))
        self.note(first, last, loss)
        return to_bytes(result, self.dtype)


class CastReader(BlockReader):
    """A reader of a tensor as another element type."""

    def compute(self, values: Array) -> tuple[Array, Loss]:
        """The values, rounded."""
        return cast_array(values, self.source.info.dtype, self.dtype)

    def applied_to(self, source: LazyTensor) -> LazyTensor:
        """Another tensor as this type."""
        return cast_tensor(source, self.dtype)


def cast_tensor(tensor: LazyTensor, dtype: DType) -> LazyTensor:
    """The tensor as `dtype`. A block-quantized tensor is unpacked to F32 first, and rounded from there.

    Raises UnsupportedError where one of the types has no numbers to round, and what `unpacked` and `quantized` raise.
    """
    if tensor.info.dtype.kind == "block" and dtype.kind in ("float", "int", "uint", "bool", "block"):
        tensor = unpacked(tensor)
        if dtype is DType.F32:
            return tensor
    if dtype.kind == "block" and tensor.info.dtype.kind in ("float", "int", "uint", "bool"):
        return quantized(_rounded_once(tensor, DType.F32) or tensor, dtype)
    for involved in (tensor.info.dtype, dtype):
        if involved.kind not in ("float", "int", "uint", "bool"):
            raise UnsupportedError(f"{involved} is not cast to or from", hint="leave these tensors as they are")
    result = LazyTensor(TensorInfo.of(dtype, tensor.info.shape), CastReader(tensor, dtype), depends=tensor.depends)
    return _rounded_once(tensor, dtype) or result


def cast_to(tensor: LazyTensor, dtype: DType) -> LazyTensor:
    """The tensor as `dtype`: itself if it has that type already. Tied tensors stay tied."""
    if tensor.info.dtype is dtype:
        return tensor
    alias = None if tensor.alias is None else ("cast", tensor.alias, dtype.name)
    return replace(cast_tensor(tensor, dtype), alias=alias)


def _rounded_once(tensor: LazyTensor, dtype: DType) -> LazyTensor | None:
    """The tensor rounded to `dtype` directly, if it is computed with more digits than its own type has; else None."""
    once = tensor.reader.cast_to(dtype) if isinstance(tensor.reader, Computed) else None
    return None if once is None else replace(once, info=TensorInfo.of(dtype, tensor.info.shape))
