"""The figures of tensors whose elements have 8 bits at most, from counts of each pair of codes.

There are 65,536 different pairs at most, however large the tensors are. The figures are computed from these and their
counts: the same result as that of `figures`, in a tenth of the time for each element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.checks.codes import codes_of, image_of, values_of
from ckptconv.checks.figures import STORED_AS, Figures, figures, scalar, values_differ

if TYPE_CHECKING:
    from ckptconv.checks.tolerance import Tolerance
    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType


BITS = 8

MANY = 1 << 15
"""For this many elements and more, counting is faster than `figures`."""

BLOCK = 1 << 16
"""Elements at a time: numpy counts 64-bit numbers, and these stay in a core's cache."""


class JointFigures:
    """Counts the pairs of elements of two tensors, in order; element types `a` and `b`."""

    def __init__(self, a: DType, b: DType) -> None:
        import numpy as np

        self.types = STORED_AS.get(a, a), STORED_AS.get(b, b)
        self.counts = np.zeros(1 << 2 * BITS, np.int64)
        self.first: int | None = None
        self._pair = 0, 0

    def add(self, left: memoryview, right: memoryview, count: int) -> None:
        """Count the next `count` elements of both; those of under 8 bits may end within a byte."""
        import numpy as np

        a, b = (codes_of(data, dtype)[:count] for data, dtype in zip((left, right), self.types, strict=True))
        if self.first is None:
            self._find_first(a, b)
        for at in range(0, count, BLOCK):
            joint = a[at : at + BLOCK].astype(np.intp)
            joint <<= BITS
            joint |= b[at : at + BLOCK]
            self.counts += np.bincount(joint, minlength=len(self.counts))

    def _find_first(self, a: Array, b: Array) -> None:
        differ = a != b
        if self.types[0] != self.types[1]:
            differ = values_differ(*(values_of(dtype)[codes] for dtype, codes in zip(self.types, (a, b), strict=True)))
        at = int(differ.argmax())
        if differ[at]:
            self.first, self._pair = int(self.counts.sum()) + at, (int(a[at]), int(b[at]))

    def figures(self, tolerance: Tolerance, *, histogram: bool) -> Figures:
        """The figures of all elements that were counted."""
        import numpy as np

        pairs = np.flatnonzero(self.counts)
        a_type, b_type = self.types
        left, right = (
            image_of(codes, dtype)
            for codes, dtype in zip((pairs >> BITS, pairs & ((1 << BITS) - 1)), self.types, strict=True)
        )
        times = self.counts[pairs]
        found = figures(left, right, a_type, b_type, len(pairs), tolerance, histogram=histogram, times=times)
        found.first = self.first
        if self.first is not None:
            a, b = (scalar(values_of(dtype), code, dtype) for dtype, code in zip(self.types, self._pair, strict=True))
            found.first_values = a, b
        return found
