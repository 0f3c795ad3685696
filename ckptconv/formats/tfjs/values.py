"""Values of weights that TensorFlow.js stores in 8 or 16 bits: what they are once it has loaded them.

    uint8, uint16    integer * scale + min, computed in double precision; of int32 rounded, halves upwards
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
    """What makes values of integers."""

    scale: float
    least: float


class _Reader:
    """Reads ranges of the image that the stored tensor stands for; memory for the range, some times over."""

    def __init__(self, stored: LazyTensor, dtype: DType, scale: Scale | None) -> None:
        self._stored, self._dtype, self._scale = stored, dtype, scale
        self.light = stored.light

    def __call__(self, start: int, stop: int) -> memoryview:
        first, last = start // 4, -(-stop // 4)
        made = self._computed(self._stored.elements(first, last))
        return memoryview(made.tobytes())[start - 4 * first : stop - 4 * first]

    def _computed(self, values: Array) -> Array:
        import numpy as np

        if self._scale is None:
            return values.astype("<f4")
        with np.errstate(over="ignore", invalid="ignore"):  # what TensorFlow.js does in silence
            doubles = values.astype(np.float64) * self._scale.scale + self._scale.least
            if self._dtype is DType.F32:
                return doubles.astype("<f4")
            return np.floor(doubles + 0.5).astype("<i4")


def loaded(stored: LazyTensor, dtype: DType, scale: Scale | None) -> LazyTensor:
    """The weight of 32 bits that `stored` stands for, unread."""
    info = TensorInfo.of(dtype, stored.info.shape)
    return LazyTensor(info, _Reader(stored, dtype, scale), depends=depends_of([stored]))
