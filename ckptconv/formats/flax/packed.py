"""Elements of fewer than 8 bits: a byte each in a file, as in ml_dtypes' arrays; packed in a tensor's image."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import RangeReader

STEP = 1 << 18
"""Elements that are converted at a time; each takes some 20 bytes meanwhile."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Reads ranges of the packed image of `numel` elements; `unpacked` reads them as a byte each."""

    unpacked: RangeReader
    dtype: DType
    numel: int

    def __call__(self, start: int, stop: int) -> memoryview:
        import numpy as np

        from ckptconv.core.arrays import to_bytes

        group = lcm(8, self.dtype.bits) // self.dtype.bits  # elements that end where a byte does
        size = group * self.dtype.bits // 8
        first, last = start // size * group, min(-(-stop // size) * group, self.numel)
        image = bytearray()
        for at in range(first, last, STEP):
            elements = np.frombuffer(self.unpacked(at, min(at + STEP, last)), np.uint8)
            image += to_bytes(elements, self.dtype)
        begin = first // group * size
        return memoryview(image)[start - begin : stop - begin]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Reads ranges of elements as a byte each, from a packed image: the inverse of `Packed`."""

    packed: RangeReader
    dtype: DType
    numel: int

    def __call__(self, start: int, stop: int) -> memoryview:
        import numpy as np

        from ckptconv.core.arrays import from_bytes

        group = lcm(8, self.dtype.bits) // self.dtype.bits
        size = group * self.dtype.bits // 8
        first, last = start // group, -(-stop // group)
        elements = bytearray()
        for at in range(first, last, STEP // group):
            end = min(at + STEP // group, last)
            count = min(end * group, self.numel) - at * group
            image = self.packed(at * size, at * size + (count * self.dtype.bits + 7) // 8)
            elements += from_bytes(image, self.dtype, count).view(np.uint8).tobytes()
        return memoryview(elements)[start - first * group : stop - first * group]
