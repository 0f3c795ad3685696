"""Unpacks block-quantized tensors to F32, block by block while they are read.

The bytes of a block are unpacked by the `gguf` package of ggml's authors (``gguf.quants.dequantize``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.errors import MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array

MOST = 1 << 16
"""Elements that are unpacked at a time; some types take ten temporary arrays of as many floats."""

F32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A reader of a block-quantized tensor as F32. Takes memory for the range and for MOST elements."""

    source: LazyTensor

    def __call__(self, start: int, stop: int) -> memoryview:
        block = self.source.info.dtype.block * F32_BYTES
        first, last = start // block, -(-stop // block)
        result = bytearray((last - first) * block)
        step = max(1, MOST * F32_BYTES // block)
        for at in range(first, last, step):
            end = min(at + step, last)
            result[(at - first) * block : (end - first) * block] = self._blocks(at, end)
        return memoryview(result)[start - first * block : stop - first * block]

    def _blocks(self, first: int, last: int) -> bytes:
        import numpy as np

        width = self.source.info.dtype.bits // 8
        data = np.frombuffer(self.source.read(first * width, last * width), dtype=np.uint8)
        with np.errstate(all="ignore"):  # a scale may be infinite, or any NaN
            # as a single row, because gguf computes 16 rows at a time
            floats = _dequantize(data.reshape(1, -1), self.source.info.dtype)
        return floats.astype("<f4", copy=False).tobytes()

    @property
    def light(self) -> bool:
        """Whether a small range costs little memory and few calls."""
        return self.source.span is not None


def _dequantize(blocks: Array, dtype: DType) -> Array:
    from gguf import GGMLQuantizationType, quants

    return quants.dequantize(blocks, GGMLQuantizationType[dtype.name])


def unpacked(tensor: LazyTensor) -> LazyTensor:
    """The tensor as F32.

    Raises MissingExtraError without the `gguf` package, UnsupportedError for a type that it cannot unpack: those that
    ggml uses for activations, and the newest ones.
    """
    dtype = tensor.info.dtype
    if dtype.block == 1 or tensor.info.numel % dtype.block:
        raise UnsupportedError(f"{dtype} is not cast", hint="leave these tensors as they are")
    try:
        import numpy as np

        _dequantize(np.zeros((1, dtype.bits // 8), np.uint8), dtype)
    except ModuleNotFoundError as error:
        raise MissingExtraError("gguf", "gguf") from error
    except (NotImplementedError, KeyError) as error:
        raise UnsupportedError(
            f"the gguf package does not unpack {dtype}", hint="leave these tensors as they are"
        ) from error
    return floats_of(tensor)


def floats_of(tensor: LazyTensor) -> LazyTensor:
    """The tensor as F32, for its header: whether or not it can be unpacked."""
    return LazyTensor(TensorInfo.of(DType.F32, tensor.info.shape), Unpacked(tensor), depends=tensor.depends)
