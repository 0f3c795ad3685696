"""Elements under 8 bits that take a byte each in their file, as in ml_dtypes' arrays; in an image they are packed."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import RangeReader

STEP = 1 << 18
"""Elements that are packed at a time, each of which takes some 20 bytes on the way."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Reads ranges of the image of `numel` elements, of which `unpacked` has one in each byte."""

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
    """Reads elements of an image as bytes, one for each: the inverse of `Packed`."""

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
