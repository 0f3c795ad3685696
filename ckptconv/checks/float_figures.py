"""The figures of two blocks of F64, F32, F16 or BF16, or of one of these and its cast to another, the usual cases: the
same numbers sooner, in hardly any new memory.

`figures` makes an array of F64 for every step of the computation. Here a few buffers are filled again and again, and
are F32 as far as that carries, which takes half the time. Sums come to seven digits then. So does the choice of the
largest change: of two that differ by less it may be either, and what is reported of it is exact. The cosine is taken
from the difference where the sizes are alike, not from the products: that of nearly equal tensors keeps its digits.
"""

from __future__ import annotations

from functools import cached_property
from math import inf, isfinite, isinf, isnan, sqrt
from typing import TYPE_CHECKING, Any

from ckptconv.checks.figures import Figures
from ckptconv.checks.histogram import count_bins
from ckptconv.checks.tolerance import Tolerance
from ckptconv.core.arrays import numpy_dtype
from ckptconv.core.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FAST = (DType.F64, DType.F32, DType.F16, DType.BF16)

_HOLDS = {DType.F64: FAST, DType.F32: FAST[1:], DType.F16: (DType.F16,), DType.BF16: (DType.BF16,)}
"""The types of which each has every number."""

BLOCK = 1 << 17
"""Elements at a time: as many F32 as are read at once. Smaller blocks would stay in a core's cache, and yet are slower
on several cores: after every call of numpy a thread may have to wait for the interpreter.
"""

FEW = 1 << 13
"""Elements up to which F64 takes no time, and the errors of F32 do not even out."""

ROW = 1 << 10
"""Elements whose products F32 adds up; sums of rows are added in F64. For rows of over 10,000 BLAS would start threads.
"""

SMALLEST = 1e-280
"""A sum of squares below which some of them may have been lost, in F64 too."""

EXACT = Tolerance()

TINY = 1e-30
"""A mean square from which on F32 can add it up: squares that are too small for it are nothing beside that."""


def _dot(x: Array, y: Array) -> float:
    import numpy as np

    whole = len(x) // ROW * ROW
    rows = np.matmul(x[:whole].reshape(-1, 1, ROW), y[:whole].reshape(-1, ROW, 1))
    total = float(rows.sum(dtype=np.float64))
    return total if whole == len(x) else total + float(x[whole:] @ y[whole:])


def _from_bf16(codes: Array, buffer: Array) -> Array:
    """BF16 as F32, of which it is the upper half."""
    import numpy as np

    bits = buffer.view("<u4")[: len(codes)]
    np.copyto(bits, codes)
    np.left_shift(bits, 16, out=bits)
    return bits.view("<f4")


def _from_bf16_pairs(codes: Array, buffer: Array) -> Array:
    """The same of an even number, every other one first, then those between: two to a word, in half the steps."""
    import numpy as np

    half, words, bits = len(codes) // 2, codes.view("<u4"), buffer.view("<u4")[: len(codes)]
    np.left_shift(words, 16, out=bits[:half])
    np.bitwise_and(words, 0xFFFF_0000, out=bits[half:])
    return bits.view("<f4")


def _from_f16(codes: Array, buffer: Array) -> Array:
    """Finite F16 as F32, in a quarter of numpy's time: sign, exponent and fraction are put where F32 has them.

    Both exponents count from another zero (15 and 127), which a factor mends, of subnormal numbers too.
    """
    import numpy as np

    bits = buffer.view("<i4")[: len(codes)]
    np.copyto(bits, codes.view("<i2"))  # three copies of the sign beside it
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, ~0x7000_0000, out=bits)
    values = bits.view("<f4")
    np.multiply(values, np.float32(2.0 ** (127 - 15)), out=values)
    return values


def _rounded_to_bf16(values: Array, buffer: Array) -> Array:
    """The codes of finite F32 as BF16, to nearest, ties to even: in F32's bits half of the lower part's range is added,
    less one where the upper part is even, and what carries rounds up.
    """
    import numpy as np

    bits, made = values.view("<u4"), buffer.view("<u4")[: len(values)]
    np.right_shift(bits, 16, out=made)
    np.bitwise_and(made, 1, out=made)
    np.add(made, 0x7FFF, out=made)
    np.add(made, bits, out=made)
    return made.view("<u2")[1::2]


def _farthest(changes: Array) -> int:
    """Where the largest lies, of either sign; the first NaN where there are any."""
    low, high = int(changes.argmin()), int(changes.argmax())
    return high if changes[high] >= -changes[low] else low


def _code(dtype: DType, kind: str = "u") -> np.dtype[Any]:
    import numpy as np

    return np.dtype(f"<{kind}{dtype.bits // 8}")


class FloatFigures:
    """Computes blocks of two element types, with a histogram where that is wanted; belongs to one thread.

    In F64 with `exact`, or where elements, a histogram or a tolerance ask for it; else in F32.
    """

    def __init__(self, a: DType, b: DType, *, histogram: bool = False, exact: bool = False) -> None:
        import numpy as np

        self.types, self.histogram = (a, b), histogram
        self.signed = _code(a, "i")
        self.top = _code(a).type(1 << (a.bits - 1))
        self.is_narrow = not (exact or histogram or DType.F64 in self.types)
        self.wide = [np.empty(BLOCK, np.float32 if self.is_narrow else np.float64) for _ in range(3)]
        self.upper = np.empty(BLOCK, np.float32)
        self.codes = [np.empty(BLOCK, _code(a)) for _ in range(3)]
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
        """The figures of at most `BLOCK` elements; None where a value or a sum is not finite, which takes more care."""
        import numpy as np

        if self.is_narrow and (count < FEW or not tolerance.is_exact):
            return self.exact(left, right, count, tolerance)
        if isinf(tolerance.rtol):
            return None
        one, other = (
            np.frombuffer(data, _code(dtype))[:count] for data, dtype in zip((left, right), self.types, strict=True)
        )
        with np.errstate(all="ignore"):
            x, y = (
                self._numbers(codes, dtype, buffer)
                for codes, dtype, buffer in zip((one, other), self.types, self.wide, strict=False)
            )
            d = np.subtract(y, x, out=self.wide[2][:count])
            found = Figures(count, finite=count)
            found.dd, found.aa, found.bb = sums = [_dot(each, each) for each in (d, x, y)]
            if self.is_narrow and not all(self._carries(s, each) for s, each in zip(sums, (d, x, y), strict=True)):
                return self.exact(left, right, count, tolerance)
            if not all(map(isfinite, sums)):
                return None
            alike = self.is_narrow and found.aa < 4 * found.bb < 16 * found.aa
            found.ab = (found.aa + found.bb - found.dd) / 2 if alike else _dot(x, y)
            if self.types[0] is self.types[1]:
                gap = self._bits(found, one, other, distances=tolerance.ulp > 0)
            else:
                gap = None
                self._casts(found, (one, x), (other, y), d)
            if found.first is not None:
                found.outside = found.differing if tolerance.is_exact else self._outside(x, d, gap, tolerance)
                found.first_values = self._value(one, found.first, 0), self._value(other, found.first, 1)
                self._largest(found, x, y, d)
        return found

    def _carries(self, squares: float, x: Array) -> bool:
        """Whether F32 is wide enough for a sum of squares."""
        return isfinite(squares) and (squares >= TINY * len(x) or not x.any())

    def _numbers(self, codes: Array, dtype: DType, buffer: Array) -> Array:
        """The values of these bits, exactly, in the type that is computed with; two BF16 in an order of their own."""
        if dtype is DType.BF16 and self.is_narrow:
            widen = _from_bf16_pairs if self.types[0] is self.types[1] and len(codes) % 2 == 0 else _from_bf16
            return widen(codes, buffer)
        if dtype is DType.BF16:
            return self._filled(buffer, _from_bf16(codes, self.upper))
        if dtype is DType.F16 and self.is_narrow and self._largest_code(codes) < 0x7C00:
            return _from_f16(codes, buffer)
        return self._filled(buffer, codes.view(f"<f{codes.itemsize}"))

    def _value(self, codes: Array, at: int, side: int) -> float:
        return float(codes[at : at + 1].view(numpy_dtype(self.types[side]))[0])

    def _filled(self, buffer: Array, values: Array) -> Array:
        import numpy as np

        if values.dtype == buffer.dtype:
            return values
        np.copyto(buffer[: len(values)], values)
        return buffer[: len(values)]

    def _largest_code(self, codes: Array) -> int:
        """The bits of the largest F16 but for its sign; infinity and NaN have the largest."""
        import numpy as np

        return int(np.bitwise_and(codes, 0x7FFF, out=self.codes[0].view("<u2")[: len(codes)]).max())

    def _largest(self, found: Figures, x: Array, y: Array, change: Array) -> None:
        """The largest changes, and all of them by their size; `change` is lost."""
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
        """How many are too far from each other; `gap`, if any, are their distances in representable values."""
        import numpy as np

        bound = np.multiply(np.abs(x, out=self.bound[: len(x)]), tolerance.rtol, out=self.bound[: len(x)])
        np.add(bound, tolerance.atol, out=bound)
        near = np.less_equal(np.abs(change, out=change), bound, out=self.flags[: len(x)])
        if gap is not None:
            near |= gap <= tolerance.ulp
        return len(x) - int(np.count_nonzero(near))

    def _casts(self, found: Figures, a: tuple[Array, Array], b: tuple[Array, Array], change: Array) -> None:
        """How many differ across two types, of which codes and values are given, and whether rounding explains it."""
        import numpy as np

        differ = np.not_equal(change, 0, out=self.flags[: len(change)])
        found.differing = int(np.count_nonzero(differ))
        if found.differing:
            found.first = int(differ.argmax())
            types = self.types
            found.narrowed = types[0] not in _HOLDS[types[1]] and self._rounds(a[1], b[0], types[1])
            found.widened = types[1] not in _HOLDS[types[0]] and self._rounds(b[1], a[0], types[0])

    def _rounds(self, values: Array, wanted: Array, dtype: DType) -> bool:
        """Whether these values, rounded to a type, are those with the codes `wanted`."""
        import numpy as np

        if dtype is DType.BF16 and values.dtype == np.float32:
            codes = _rounded_to_bf16(values, self.upper)
        else:
            codes = values.astype(numpy_dtype(dtype)).view(_code(dtype))
        other = np.not_equal(codes, wanted, out=self.flags[: len(codes)])
        at = int(other.argmax())
        if not other[at]:
            return True
        size = (1 << (dtype.bits - 1)) - 1
        if (codes[at] | wanted[at]) & size:
            return False
        return not ((codes[other] | wanted[other]) & size).any()  # zeros of either sign are one number

    def _bits(self, found: Figures, one: Array, other: Array, *, distances: bool) -> Array | None:
        """What the bits say: how many differ, the first of them, and the most representable values between two.

        Those of one sign count up with the size, so their difference is the distance; those of two lie as far apart
        as both sizes together. Gives all `distances` back, where they are wanted.
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
            sizes = self._crossing(one, other) if many >= count >> 6 else self._few_crossing(one, other, crossing)
            found.signs = many - int(np.count_nonzero(sizes))
            found.max_ulp = int(sizes.max())
        if distances or found.max_ulp < self._largest_size(found):  # else none of one sign lie as far apart
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
        """Bits that no value but for its sign goes beyond: a tensor's norm is no less than any of its values."""
        import numpy as np

        if max(found.aa, found.bb) < SMALLEST:
            return int(self.top)
        norm = np.array([1.001 * sqrt(max(found.aa, found.bb))])
        return int(norm.astype(numpy_dtype(self.types[0])).view(_code(self.types[0]))[0]) + 1

    def _few_crossing(self, one: Array, other: Array, crossing: Array) -> Array:
        """The distances of pairs of two signs."""
        import numpy as np

        at = np.flatnonzero(crossing)
        sizes: Array = (one[at] & (self.top - 1)) + (other[at] & (self.top - 1))
        return sizes

    def _crossing(self, one: Array, other: Array) -> Array:
        """The same for many of them, with zeros between; what differs where is lost."""
        import numpy as np

        mask, _, sizes = (buffer[: len(one)] for buffer in self.codes)
        np.right_shift(mask.view(self.signed), 8 * mask.itemsize - 1, out=mask.view(self.signed))  # ones, or zeros
        np.bitwise_xor(np.add(one, other, out=sizes), self.top, out=sizes)  # one of the two has the sign's bit
        np.bitwise_and(sizes, mask, out=sizes)
        return sizes
