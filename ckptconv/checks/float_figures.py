"""The figures of two blocks of F64, F32, F16 or BF16, the usual case: the same numbers sooner, in no new memory.

`figures` makes an array for every step of the computation. Here a dozen buffers are filled again and again, so that
blocks can be large enough for numpy's own calls to cost little, and stay in the cache of a core.
"""

from __future__ import annotations

from math import isfinite, isnan
from typing import TYPE_CHECKING, Any

from ckptconv.checks.figures import Figures
from ckptconv.checks.histogram import count_bins
from ckptconv.core.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FAST = (DType.F64, DType.F32, DType.F16, DType.BF16)

BLOCK = 1 << 17
"""Elements at a time: as many F32 as are read at once. Smaller blocks would stay in a core's cache, and yet are slower
on several cores: after every call of numpy a thread may have to wait for the interpreter.
"""

DOT = 1 << 13
"""Elements that are multiplied at a time: for rows of over 10,000 BLAS would start threads of its own."""


def _dot(x: Array, y: Array) -> float:
    import numpy as np

    whole = len(x) // DOT * DOT
    rows = np.matmul(x[:whole].reshape(-1, 1, DOT), y[:whole].reshape(-1, DOT, 1))
    return float(rows.sum()) + float(x[whole:] @ y[whole:])


class FloatFigures:
    """Computes blocks of one element type, with a histogram where that is wanted; belongs to one thread."""

    def __init__(self, dtype: DType, *, histogram: bool = False) -> None:
        import numpy as np

        self.histogram = histogram
        self.code = np.dtype(f"<u{dtype.bits // 8}")
        self.float = None if dtype is DType.BF16 else np.dtype(f"<f{dtype.bits // 8}")
        self.top = self.code.type(1 << (dtype.bits - 1))
        self.wide = [np.empty(BLOCK, np.float64) for _ in range(3)]
        self.codes = [np.empty(BLOCK, self.code) for _ in range(3)]
        self.flags = np.empty(BLOCK, bool)
        self.upper = None if self.float else np.empty(BLOCK, "<u4")

    def __call__(self, left: memoryview, right: memoryview, count: int) -> Figures | None:
        """The figures of at most `BLOCK` elements; None where a value or a sum is not finite, which takes more care."""
        import numpy as np

        one, other = (np.frombuffer(data, self.code)[:count] for data in (left, right))
        x, y, d = (buffer[:count] for buffer in self.wide)
        with np.errstate(all="ignore"):
            self._widen(one, x)
            self._widen(other, y)
            np.subtract(y, x, out=d)
            sums = [_dot(p, q) for p, q in ((d, d), (x, x), (y, y), (x, y))]
            if not all(map(isfinite, sums)):
                return None
            found = Figures(count, finite=count)
            found.dd, found.aa, found.bb, found.ab = sums
            differ = np.not_equal(one, other, out=self.flags[:count])
            found.differing = found.outside = int(np.count_nonzero(differ))
            if not found.differing:
                return found
            found.first = int(differ.argmax())
            found.first_values = (float(x[found.first]), float(y[found.first]))
            np.abs(d, out=d)
            found.max_abs = float(d.max())
            equal = int(np.count_nonzero(np.equal(d, 0.0, out=self.flags[:count])))
            found.signs = equal - (count - found.differing)
            if found.max_abs:
                np.divide(d, np.abs(x, out=x), out=d)
                most = float(d.max())
                found.max_rel = float(np.fmax.reduce(d)) if isnan(most) else most  # fmax passes over 0 / 0
                if self.histogram:
                    found.bins = count_bins(d)
            found.max_ulp = self._ulp(one, other, count)
        return found

    def _widen(self, codes: Array, out: Array) -> None:
        """The values of these bits, as F64."""
        import numpy as np

        if self.float is not None:
            np.copyto(out, codes.view(self.float))
            return
        assert self.upper is not None
        upper = self.upper[: len(codes)]  # a BF16 is the upper half of an F32
        np.copyto(upper, codes)
        np.left_shift(upper, 16, out=upper)
        np.copyto(out, upper.view("<f4"))

    def _ulp(self, one: Array, other: Array, count: int) -> int:
        """The most representable values between two: by their bits, as in `figures`."""
        import numpy as np

        a, b, c = (buffer[:count] for buffer in self.codes)
        np.bitwise_xor(one, other, out=c)
        crossed = int(c.max()) >= int(self.top)
        np.bitwise_and(one, self.top - 1, out=a)
        np.bitwise_and(other, self.top - 1, out=b)
        if not crossed:
            return int(_apart(a, b).max())
        signs = np.greater_equal(c, self.top, out=self.flags[:count])
        # a reduction with `where` would take ten times as long
        most = int(np.multiply(np.add(a, b, out=c), signs, out=c).max())
        np.logical_not(signs, out=signs)
        return max(most, int(np.multiply(_apart(a, b), signs, out=a).max()))


def _apart(a: Array, b: Array) -> Array:
    """How far numbers without sign are apart; `b` is lost."""
    import numpy as np

    high = np.maximum(a, b)
    np.minimum(a, b, out=b)
    return np.subtract(high, b, out=high)
