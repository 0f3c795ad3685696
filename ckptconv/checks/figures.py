"""How a chunk of one tensor differs from the same chunk of another, in figures that can be added up.

Elements differ where their bits do (across element types: where their values do, NaN being equal to NaN). A distance
is taken between the values as F64; between integers and in ULP it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

from ckptconv.checks.histogram import count_bins
from ckptconv.core.arrays import NUMPY_NAMES, Array, from_bytes, numpy_dtype
from ckptconv.core.dtypes import COMPONENT, DType
from ckptconv.edits.rounding import LAST, cast_array

if TYPE_CHECKING:
    from ckptconv.checks.tolerance import Tolerance


Scalar = bool | int | float | complex

STORED_AS = {
    DType.QI32: DType.I32, DType.QI8: DType.I8, DType.QU8: DType.U8, DType.QU4: DType.U4, DType.QU2: DType.U2,
}  # fmt: skip
"""Quantized values are compared as the integers that are stored."""


def is_number(dtype: DType) -> bool:
    """Whether figures can be given for elements of this type."""
    dtype = STORED_AS.get(dtype, dtype)
    return dtype in NUMPY_NAMES or dtype in COMPONENT


@dataclass(slots=True)
class Figures:
    """Figures of elements in order; `first` counts from the first of them.

    differing: elements whose bits differ. outside: those beyond the tolerance. signs: those that are 0.0 and -0.0.
    nan:       pairs of which one is NaN and the other is not; no distance is taken of them.
    dd, aa, bb, ab: sums of products of the difference and the values, over pairs that are both finite.
    narrowed, widened: whether casting the left to the right's type gives the right, and the other way round.
    bins:      the relative changes as `histogram` counts them; None where that was not asked for, or nothing differs.
    """

    elements: int = 0
    differing: int = 0
    outside: int = 0
    signs: int = 0
    nan: int = 0
    max_abs: float | int = 0
    max_rel: float = 0.0
    max_ulp: int = 0
    dd: float = 0.0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    finite: int = 0
    narrowed: bool = True
    widened: bool = True
    first: int | None = None
    first_values: tuple[Scalar, Scalar] | None = None
    bins: Array | None = None

    def add(self, more: Figures) -> None:
        """Add the figures of the elements that follow."""
        if self.first is None and more.first is not None:
            self.first, self.first_values = self.elements + more.first, more.first_values
        for name in ("elements", "differing", "outside", "signs", "nan", "dd", "aa", "bb", "ab", "finite"):
            setattr(self, name, getattr(self, name) + getattr(more, name))
        for name in ("max_abs", "max_rel", "max_ulp"):
            setattr(self, name, max(getattr(self, name), getattr(more, name)))
        if more.bins is not None:
            self.bins = more.bins if self.bins is None else self.bins + more.bins
        self.narrowed = self.narrowed and more.narrowed
        self.widened = self.widened and more.widened

    @property
    def rms(self) -> float | None:
        """Root mean square of the difference."""
        return sqrt(self.dd / self.finite) if self.finite else None

    @property
    def change(self) -> float | None:
        """Norm of the difference, relative to the norm of the left side."""
        if not self.finite:
            return None
        return sqrt(self.dd / self.aa) if self.aa else (inf if self.dd else 0.0)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between both; None where one of them is zero."""
        if not self.aa or not self.bb:
            return None
        return max(-1.0, min(1.0, self.ab / (sqrt(self.aa) * sqrt(self.bb))))


def figures(
    left: memoryview, right: memoryview, a_type: DType, b_type: DType, count: int, tolerance: Tolerance, *,
    histogram: bool = False, times: Array | None = None,
) -> Figures:  # fmt: skip
    """The figures of two chunks of `count` elements; those of under 8 bits may end within a byte.

    `times`: how often each pair of elements is counted; for types that are not complex.
    """
    import numpy as np

    a_type, b_type = STORED_AS.get(a_type, a_type), STORED_AS.get(b_type, b_type)
    with np.errstate(all="ignore"):
        a, b = numbers(left, a_type)[:count], numbers(right, b_type)[:count]
        found = Figures(count if times is None else int(times.sum()))
        ulp: Array | None = None
        if a_type == b_type:
            codes = _codes(left, a, a_type)[:count], _codes(right, b, b_type)[:count]
            differ = codes[0] != codes[1]
            if differ.ndim == 2:
                differ = differ.any(axis=1)
            chosen: Any = slice(None) if differ.all() else differ  # a mask copies
            ulp = _ulp(codes[0][chosen], codes[1][chosen], a_type)
        else:
            differ = values_differ(a, b)
            found.narrowed = found.narrowed and _is_cast(left, right, a_type, b_type, count)
            found.widened = found.widened and _is_cast(right, left, b_type, a_type, count)
            chosen = differ
        found.differing = _count(differ, times)
        _add_products(found, a, b, times)
        if found.differing:
            found.first = int(differ.argmax())
            found.first_values = (scalar(a, found.first, a_type), scalar(b, found.first, b_type))
            often = None if times is None else times[chosen]
            plain = found.finite == count and a.dtype == b.dtype and a.dtype.kind in "fc" and tolerance.is_exact
            if plain and often is None:
                changes = _plain_distances(found, a[chosen], b[chosen], ulp)
            else:
                changes = _distances(found, a[chosen], b[chosen], ulp, tolerance, often)
            if histogram:
                found.bins = count_bins(changes, often)
    return found


def values_differ(a: Array, b: Array) -> Array:
    """Which values differ, of two element types; NaN is equal to NaN."""
    import numpy as np

    differ: Array = (a != b) & ~(np.isnan(a) & np.isnan(b))
    return differ


def _count(mask: Array, times: Array | None) -> int:
    import numpy as np

    return int(np.count_nonzero(mask)) if times is None else int(times[mask].sum())


def numbers(data: memoryview, dtype: DType) -> Array:
    """The elements of an image in a type to compute with: I64, U64, F64 or C128, which has each value exactly."""
    import numpy as np

    if dtype.kind == "complex" and dtype.bits == 32:
        pairs = from_bytes(data, COMPONENT[dtype], len(data) // 2).astype(np.float64)
        return pairs.view(np.complex128)
    values = from_bytes(data, dtype, len(data) * 8 // dtype.bits)
    if dtype.kind == "float":
        return values.astype(np.float32).astype(np.float64) if dtype.bits < 32 else values.astype(np.float64)
    if dtype.kind == "complex":
        return values.astype(np.complex128)
    return values if dtype is DType.U64 else values.astype(np.int64)


def _codes(data: memoryview, numbers: Array, dtype: DType) -> Array:
    """The elements' bits as unsigned integers; rows of two for complex ones. Integers are returned as they are."""
    import numpy as np

    if dtype.kind == "bool":  # from the bytes: a byte of 2 is True as well, and other bits
        return np.frombuffer(data, dtype=np.uint8)
    if dtype.kind in ("int", "uint"):
        return numbers
    if dtype.kind == "complex":
        return np.frombuffer(data, dtype=f"<u{dtype.bits // 16}").reshape(-1, 2)
    if dtype.bits < 8:
        return from_bytes(data, dtype, len(data) * 8 // dtype.bits).view(np.uint8)
    return np.frombuffer(data, dtype=f"<u{dtype.bits // 8}")


def _ulp(a: Array, b: Array, dtype: DType) -> Array:
    """The distance of each pair in representable values: for integers their difference, for floats by their bits.

    A float is a sign and a magnitude whose bits grow with it, so the codes of neighbours differ by one.
    """
    import numpy as np

    if dtype.kind in ("int", "uint", "bool") or dtype is DType.F8_E8M0:  # E8M0 has no sign
        high, low = (pick(a, b).view(f"u{a.itemsize}") for pick in (np.maximum, np.minimum))
        gap: Array = high - low
        return gap
    bits = COMPONENT.get(dtype, dtype).bits
    top = a.dtype.type(1 << (bits - 1))
    low_a, low_b = a & (top - 1), b & (top - 1)
    apart: Array = np.maximum(low_a, low_b) - np.minimum(low_a, low_b)
    crossed = ((a ^ b) & top) != 0
    if crossed.any():
        apart[crossed] = (low_a + low_b)[crossed]
    return apart.max(axis=1) if apart.ndim == 2 and len(apart) else apart.reshape(len(a))


def _plain_distances(found: Figures, a: Array, b: Array, ulp: Array | None) -> Array:
    """`_distances` in a third of the time, for finite floats without a tolerance."""
    import numpy as np

    distance = np.abs(b - a)
    found.outside = found.differing
    found.signs = len(distance) - int(np.count_nonzero(distance))
    found.max_abs = float(distance.max())
    relative: Array = distance / np.abs(a)
    if found.signs < len(distance):
        found.max_rel = float(np.fmax.reduce(relative))  # 0 / 0 is NaN, which fmax ignores
    if ulp is not None:
        found.max_ulp = int(ulp.max())
    return relative


def _distances(
    found: Figures, a: Array, b: Array, ulp: Array | None, tolerance: Tolerance, times: Array | None
) -> Array:
    """Fill in the distances of the elements that differ. Returns the relative ones."""
    import numpy as np

    if a.dtype != b.dtype:
        a, b = a.astype(np.result_type(a, b, np.float64)), b.astype(np.result_type(a, b, np.float64))
    is_integer = a.dtype.kind in "iu"
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    odd, neither = nan_a != nan_b, ~(nan_a | nan_b)
    found.nan = _count(odd, times)
    close = nan_a & nan_b
    if is_integer and ulp is not None:
        distance: Array = ulp
        found.max_abs = int(ulp.max())
    else:
        distance = np.abs(b - a)
        distance[a == b] = 0.0  # equal infinities
        found.signs = _count(distance == 0, times)
        found.max_abs = float(np.max(distance, where=neither, initial=0.0))
    size = np.abs(a.astype(np.float64)) if is_integer else np.abs(a)
    relative: Array = distance / size
    relative[distance == 0] = 0.0
    relative[np.isinf(distance)] = inf
    found.max_rel = float(np.max(relative, where=neither, initial=0.0))
    if ulp is not None:
        found.max_ulp = int(np.max(ulp, where=neither, initial=0))
    if tolerance.is_exact:
        found.outside = found.differing
        return relative
    near = distance <= tolerance.atol + tolerance.rtol * size
    near &= np.isfinite(distance)  # an infinite reference would allow everything
    if tolerance.ulp and ulp is not None:
        near |= ulp <= tolerance.ulp
    close |= near & neither
    found.outside = _count(~close, times)
    return relative


def _add_products(found: Figures, a: Array, b: Array, times: Array | None) -> None:
    """Sums of products over finite pairs, without BLAS, which would start threads of its own."""
    import numpy as np

    kind = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    x, y = (array.astype(kind, copy=False) for array in (a, b))
    if kind is np.complex128:
        x, y = x.view(np.float64), y.view(np.float64)
    found.finite = len(a) if times is None else found.elements
    sums = _products(x, y, times)
    if not all(np.isfinite(sums)):
        both = np.isfinite(x) & np.isfinite(y)
        if kind is np.complex128:
            both = both.reshape(-1, 2).all(axis=1).repeat(2)
        found.finite = _count(both, times) // (2 if kind is np.complex128 else 1)
        sums = _products(x[both], y[both], None if times is None else times[both])
    found.dd, found.aa, found.bb, found.ab = sums


def _products(x: Array, y: Array, times: Array | None) -> tuple[float, float, float, float]:
    import numpy as np

    def dot(p: Array, q: Array) -> float:
        return float(np.einsum("i,i->", p, q) if times is None else np.einsum("i,i,i->", p, q, times))

    d = y - x
    return dot(d, d), dot(x, x), dot(y, y), dot(x, y)


def _is_cast(left: memoryview, right: memoryview, a_type: DType, b_type: DType, count: int) -> bool:
    """Whether rounding every element of the left to the right's type gives the right."""
    import numpy as np

    if not (a_type in NUMPY_NAMES and b_type in NUMPY_NAMES) or (a_type.kind == "complex" != b_type.kind):
        return False
    a, wanted = from_bytes(left, a_type, len(left) * 8 // a_type.bits)[:count], numbers(right, b_type)[:count]
    if b_type.kind not in ("float", "complex"):  # nothing is rounded to an integer: the values have to be equal
        return bool((numbers(left, a_type)[:count] == wanted).all())
    target = numpy_dtype(b_type)
    wide = a.astype(np.float32) if a_type.bits < 32 and b_type.bits < 32 else a
    ways = [wide.astype(target), cast_array(a, a_type, b_type)[0]] if b_type in LAST else [wide.astype(target)]
    casts = [cast.astype(wanted.dtype) for cast in ways]  # past the range: NaN in JAX, the largest in torch
    return any(bool(((cast == wanted) | (np.isnan(cast) & np.isnan(wanted))).all()) for cast in casts)


def scalar(values: Array, index: int, dtype: DType) -> Scalar:
    """One of the `numbers` as a Python value."""
    value: Scalar = values[index].item()
    return bool(value) if dtype.kind == "bool" else value
