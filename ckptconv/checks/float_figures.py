"""The figures of two blocks of F64, F32, F16 or BF16, in any pair: the usual cases, faster than by `figures`, and with
hardly any new memory.

`figures` makes an array of F64 for every step of the computation. Here a few buffers are used again and again, and are
F32 where that suffices, which takes half the time. Sums then have seven digits. So has the choice of the largest
change: of two that differ by less it may be either, but the change that is reported is exact. Where the norms are
similar, the cosine is computed from the difference, not from the products, so that nearly equal tensors lose no digits.
"""

from __future__ import annotations

from functools import cached_property
from math import inf, isfinite, isinf, isnan, sqrt

from ckptconv.checks.figures import Figures
from ckptconv.checks.float_blocks import BLOCK, FAST, FEW, code_type, dot, f32_suffices, round_to_bf16, widened
from ckptconv.checks.histogram import count_bins
from ckptconv.checks.tolerance import Tolerance
from ckptconv.core.arrays import Array, numpy_dtype
from ckptconv.core.dtypes import DType

_REPRESENTS = {DType.F64: FAST, DType.F32: FAST[1:], DType.F16: (DType.F16,), DType.BF16: (DType.BF16,)}
"""For each type, the types of which it has every number."""

SMALLEST = 1e-280
"""In a sum of squares below this, some squares may have been rounded to zero, even in F64."""

EXACT = Tolerance()


def _farthest(changes: Array) -> int:
    """The index of the largest absolute value; of the first NaN where there is one."""
    low, high = int(changes.argmin()), int(changes.argmax())
    return high if changes[high] >= -changes[low] else low


class FloatFigures:
    """Computes the figures of blocks of two element types, with a histogram on request; for use by one thread.

    In F64 with `exact`, or where the elements, a histogram or a tolerance need it; else in F32.
    """

    def __init__(self, a: DType, b: DType, *, histogram: bool = False, exact: bool = False) -> None:
        import numpy as np

        self.types, self.histogram = (a, b), histogram
        self.signed = code_type(a, "i")
        self.top = code_type(a).type(1 << (a.bits - 1))
        self.is_narrow = not (exact or histogram or DType.F64 in self.types)
        self.wide = [np.empty(BLOCK, np.float32 if self.is_narrow else np.float64) for _ in range(3)]
        self.spare = np.empty(BLOCK, np.float32)
        self.codes = [np.empty(BLOCK, code_type(a)) for _ in range(3)]
        self.flags = np.empty(BLOCK, bool)

    @cached_property
    def bound(self) -> Array:
        """A buffer for what a tolerance allows."""
        import numpy as np

        return np.empty(BLOCK, np.float64)

    @cached_property
    def exact(self) -> FloatFigures:
        """The same in F64."""
        return FloatFigures(*self.types, exact=True)

    def __call__(self, left: memoryview, right: memoryview, count: int, tolerance: Tolerance = EXACT) -> Figures | None:
        """The figures of at most `BLOCK` elements; None where a value or a sum is not finite: `figures` does that."""
        import numpy as np

        if self.is_narrow and (count < FEW or not tolerance.is_exact):
            return self.exact(left, right, count, tolerance)
        if isinf(tolerance.rtol):
            return None
        one, other = (
            np.frombuffer(data, code_type(dtype))[:count] for data, dtype in zip((left, right), self.types, strict=True)
        )
        with np.errstate(all="ignore"):
            any_order = self.is_narrow and self.types[0] is self.types[1]
            x, y = (
                widened(codes, dtype, buffer, self.spare, any_order=any_order)
                for codes, dtype, buffer in zip((one, other), self.types, self.wide, strict=False)
            )
            d = np.subtract(y, x, out=self.wide[2][:count])
            found = Figures(count, finite=count)
            found.dd, found.aa, found.bb = sums = [dot(each, each) for each in (d, x, y)]
            if self.is_narrow and not all(f32_suffices(s, each) for s, each in zip(sums, (d, x, y), strict=True)):
                return self.exact(left, right, count, tolerance)
            if not all(map(isfinite, sums)):
                return None
            alike = self.is_narrow and found.aa < 4 * found.bb < 16 * found.aa
            found.ab = (found.aa + found.bb - found.dd) / 2 if alike else dot(x, y)
            if self.types[0] is self.types[1]:
                gap = self._compare_bits(found, one, other, distances=tolerance.ulp > 0)
            else:
                gap = None
                self._compare_casts(found, (one, x), (other, y), d)
            if found.first is not None:
                found.outside = found.differing if tolerance.is_exact else self._outside(x, d, gap, tolerance)
                found.first_values = self._value(one, found.first, 0), self._value(other, found.first, 1)
                self._largest(found, x, y, d)
        return found

    def _value(self, codes: Array, at: int, side: int) -> float:
        return float(codes[at : at + 1].view(numpy_dtype(self.types[side]))[0])

    def _largest(self, found: Figures, x: Array, y: Array, change: Array) -> None:
        """Fill in the largest changes, and the histogram; overwrites `change`."""
        import numpy as np

        at = _farthest(change)
        found.max_abs = abs(float(y[at]) - float(x[at]))
        if not found.max_abs:
            return
        relative = np.divide(change, x, out=change)
        at = _farthest(relative)
        if isnan(relative[at]):  # 0 / 0
            np.copyto(relative, 0.0, where=np.isnan(relative, out=self.flags[: len(x)]))
            at = _farthest(relative)
        size = abs(float(x[at]))
        found.max_rel = abs(float(y[at]) - float(x[at])) / size if size else inf
        if self.histogram:
            found.bins = count_bins(np.abs(relative, out=relative))

    def _outside(self, x: Array, change: Array, gap: Array | None, tolerance: Tolerance) -> int:
        """How many pairs are beyond the tolerance. `gap`: their distances in representable values, if it needs them."""
        import numpy as np

        bound = np.multiply(np.abs(x, out=self.bound[: len(x)]), tolerance.rtol, out=self.bound[: len(x)])
        np.add(bound, tolerance.atol, out=bound)
        near = np.less_equal(np.abs(change, out=change), bound, out=self.flags[: len(x)])
        if gap is not None:
            near |= gap <= tolerance.ulp
        return len(x) - int(np.count_nonzero(near))

    def _compare_casts(self, found: Figures, a: tuple[Array, Array], b: tuple[Array, Array], change: Array) -> None:
        """Compare two types, given as codes and values: how many differ, and whether rounding explains it."""
        import numpy as np

        differ = np.not_equal(change, 0, out=self.flags[: len(change)])
        found.differing = int(np.count_nonzero(differ))
        if found.differing:
            found.first = int(differ.argmax())
            types = self.types
            found.narrowed = types[0] not in _REPRESENTS[types[1]] and self._rounds_to(a[1], b[0], types[1])
            found.widened = types[1] not in _REPRESENTS[types[0]] and self._rounds_to(b[1], a[0], types[0])

    def _rounds_to(self, values: Array, wanted: Array, dtype: DType) -> bool:
        """Whether the values, rounded to a type, have the codes `wanted`."""
        import numpy as np

        if dtype is DType.BF16 and values.dtype == np.float32:
            codes = round_to_bf16(values, self.spare)
        else:
            codes = values.astype(numpy_dtype(dtype)).view(code_type(dtype))
        other = np.not_equal(codes, wanted, out=self.flags[: len(codes)])
        at = int(other.argmax())
        if not other[at]:
            return True
        size = (1 << (dtype.bits - 1)) - 1
        if (codes[at] | wanted[at]) & size:
            return False
        return not ((codes[other] | wanted[other]) & size).any()  # zeros of either sign are one number

    def _compare_bits(self, found: Figures, one: Array, other: Array, *, distances: bool) -> Array | None:
        """Compare the bits: how many pairs differ, the first of them, and the largest distance in representable values.

        Codes of one sign grow with the magnitude, so the distance is their difference; across the signs it is the sum
        of both magnitudes. Returns all distances with `distances`.
        """
        import numpy as np

        count = len(one)
        apart, gap = (buffer[:count] for buffer in self.codes[:2])
        np.bitwise_xor(one, other, out=apart)
        found.differing, found.first = count, 0
        if not apart.min():
            differ = np.not_equal(apart, 0, out=self.flags[:count])
            found.differing = int(np.count_nonzero(differ))
            found.first = int(differ.argmax()) if found.differing else None
        if not found.differing:
            return None
        sizes = None
        crossing = np.less(apart.view(self.signed), 0, out=self.flags[:count])
        many = int(np.count_nonzero(crossing))
        if many:
            sizes = self._crossings(one, other) if many >= count >> 6 else self._few_crossings(one, other, crossing)
            found.signs = many - int(np.count_nonzero(sizes))
            found.max_ulp = int(sizes.max())
        # a distance within one sign is no larger than the largest magnitude
        if distances or count < FEW or found.max_ulp < self._largest_size(found):
            signed = np.subtract(one, other, out=gap).view(self.signed)
            if many:
                signed[crossing] = 0
            found.max_ulp = max(found.max_ulp, int(signed.max()), -int(signed.min()))
        if not distances:
            return None
        np.abs(signed, out=signed)
        if sizes is not None:
            gap[crossing] = sizes[crossing] if len(sizes) == count else sizes
        return gap

    def _largest_size(self, found: Figures) -> int:
        """A bound on the codes' magnitudes: no value is larger than its tensor's norm."""
        import numpy as np

        if max(found.aa, found.bb) < SMALLEST:
            return int(self.top)
        norm = np.array([1.001 * sqrt(max(found.aa, found.bb))])
        return int(norm.astype(numpy_dtype(self.types[0])).view(code_type(self.types[0]))[0]) + 1

    def _few_crossings(self, one: Array, other: Array, crossing: Array) -> Array:
        """The distances of the pairs with two signs, those alone."""
        import numpy as np

        at = np.flatnonzero(crossing)
        sizes: Array = (one[at] & (self.top - 1)) + (other[at] & (self.top - 1))
        return sizes

    def _crossings(self, one: Array, other: Array) -> Array:
        """The same, faster for many of them, with 0 for all other pairs; overwrites the buffer of differing bits."""
        import numpy as np

        mask, _, sizes = (buffer[: len(one)] for buffer in self.codes)
        np.right_shift(mask.view(self.signed), 8 * mask.itemsize - 1, out=mask.view(self.signed))  # ones, or zeros
        np.bitwise_xor(np.add(one, other, out=sizes), self.top, out=sizes)  # one of the two has the sign's bit
        np.bitwise_and(sizes, mask, out=sizes)
        return sizes
