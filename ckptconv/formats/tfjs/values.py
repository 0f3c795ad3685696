"""Weights that are stored in 8 or 16 bits, read as the values that TensorFlow.js computes when it loads them.

    uint8, uint16    integer * scale + min, computed in double precision; rounded for int32, halves upwards
    float16          the same value

Source: tfjs-core/src/io/io_utils.ts (`decodeWeight`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo, depends_of

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


@dataclass(frozen=True, slots=True)
class Scale:
    """How integers become values; `least` is added."""

    scale: float
    least: float


class _Reader:
    """Reads ranges of the unpacked tensor; uses a few times the memory of the range."""

    def __init__(self, stored: LazyTensor, dtype: DType, scale: Scale | None) -> None:
        self._stored, self._dtype, self._scale = stored, dtype, scale
        self.light = stored.light

    def __call__(self, start: int, stop: int) -> memoryview:
        first, last = start // 4, -(-stop // 4)
        values = self._compute(self._stored.elements(first, last))
        return memoryview(values.tobytes())[start - 4 * first : stop - 4 * first]

    def _compute(self, values: Array) -> Array:
        import numpy as np

        if self._scale is None:
            return values.astype("<f4")
        with np.errstate(over="ignore", invalid="ignore"):  # as TensorFlow.js, which does not warn
            doubles = values.astype(np.float64) * self._scale.scale + self._scale.least
            if self._dtype is DType.F32:
                return doubles.astype("<f4")
            return np.floor(doubles + 0.5).astype("<i4")


def unpacked(stored: LazyTensor, dtype: DType, scale: Scale | None) -> LazyTensor:
    """The weight of 32 bits that `stored` stands for. Reads nothing."""
    info = TensorInfo.of(dtype, stored.info.shape)
    return LazyTensor(info, _Reader(stored, dtype, scale), depends=depends_of([stored]))
