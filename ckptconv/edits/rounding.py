"""Casts arrays to another element type, rounding to nearest with ties to even, and measures what that loses.

The casts are those of numpy and ml_dtypes, for all types that they know, except for speed and in these points:

    F64 → 16 bits and fewer   rounded once; going through F32 would round twice
    F32 → BF16                computed on the upper half of the bits, three times as fast; a NaN keeps its sign, and
                              what fits of its payload
    8 bits and fewer          by a table of all 2^16 upper halves. Its last bit says whether any lower bit was set,
                              which is enough to round to so few bits (rounding to odd; Boldo and Melquiond 2008)
    F8_E4M3                   values past 448, infinities too, become 448, as in torch 2.13 and on GPUs
    F8_E8M0                   0 becomes the smallest number, as in torch; negative values become NaN
    integers                  truncated towards 0, as in torch; values past the range become the nearest, NaN becomes 0
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


LAST: dict[DType, tuple[float, bool]] = {
    DType.F8_E4M3: (464.0, True),
    DType.F6_E2M3: (7.75, False),
    DType.F6_E3M2: (30.0, False),
    DType.F4: (7.0, False),
}
"""Types without infinity, where too large values become the largest number instead: the size from which rounding would
go past that number, and whether that size itself (a tie) still rounds to it (OCP Microscaling Formats 1.0, 5.3; OCP
8-bit Floating Point 1.0, 5.2).
"""


FEW = 4096
"""For fewer values than this, no table is made."""


@dataclass(slots=True)
class Loss:
    """What a cast lost.

    overflowed:   values past the range, which became infinite, NaN or the largest number; NaNs and infinities that the
                  type cannot represent.
    flushed:      values that became 0.
    max_rel:      the largest relative error of the others, if each is rounded by itself.
    error, power: if values share a scale, the sums of all squared errors and of all squared values.
    """

    overflowed: int = 0
    flushed: int = 0
    max_rel: float = 0.0
    error: float = 0.0
    power: float = 0.0

    def add(self, other: Loss) -> None:
        """Add the loss of another block."""
        self.overflowed += other.overflowed
        self.flushed += other.flushed
        self.max_rel = max(self.max_rel, other.max_rel)
        self.error += other.error
        self.power += other.power

    @property
    def rms(self) -> float:
        """The root mean square of the errors, relative to that of the values."""
        return (self.error / self.power) ** 0.5 if self.power else 0.0


def cast_array(values: Array, before: DType, after: DType) -> tuple[Array, Loss]:
    """The values as `after`, and what that lost. Takes memory for a few such arrays of F32, F64 for wider types."""
    import numpy as np

    with np.errstate(all="ignore"):
        if values.size < FEW:
            return _exactly(values, after)
        if before.kind == "float" and before.bits in (8, 16) and after.bits <= 16:
            return _by_table(values.view(np.uint8 if before.bits == 8 else np.uint16), before, after)
        if before is DType.F32 and after.kind == "float" and after.bits <= 8:
            return _by_upper_half(values, after)
        if before is DType.F32 and after is DType.BF16:
            return _to_bfloat16(values)
        return _exactly(values, after)


def rounded_once(values: Array, after: DType) -> tuple[Array, int]:
    """F64 values as `after`, and how many overflowed. Like `cast_array`, which also measures errors; for most values in
    a fifth of the time.
    """
    import numpy as np

    from ckptconv.core.arrays import numpy_dtype

    sizes = np.abs(values)
    with np.errstate(all="ignore"):
        if after is DType.F32 and sizes.max(initial=0.0) < 3.4e38:
            return values.astype(np.float32), 0
        small = sizes < 2.0**-126
        if after is DType.BF16 and sizes.max(initial=0.0) < 3.38e38 and not values[small].any():
            bits = values.view(np.uint64)
            result = bits >> np.uint64(_DROPPED)
            result &= np.uint64(1)
            result += np.uint64((1 << (_DROPPED - 1)) - 1)
            result += bits
            result &= np.uint64(~((1 << _DROPPED) - 1) & (1 << 64) - 1)
            upper = result.view(np.float64).astype(np.float32).view(np.uint32) >> np.uint32(16)  # exact by now
            return upper.astype(np.uint16).view(numpy_dtype(after)), 0
    rounded, loss = cast_array(values, DType.F64, after)
    return rounded, loss.overflowed


_DROPPED = 52 - 7
"""Bits of F64's fraction that BF16 does not have."""


def _exactly(values: Array, after: DType) -> tuple[Array, Loss]:
    """The cast without shortcuts; the tables are made with it."""
    import numpy as np

    wide = _wide(values)
    if after.kind != "float":
        return _integers(wide, after)
    if wide.dtype.kind in "iub" and after.bits < 32:
        wide = wide.astype(np.float64)
    rounded = _narrowed(wide) if wide.dtype == np.float64 and after.bits <= 16 and after is not DType.F16 else wide
    cast = _rounded(rounded, after)
    return cast, _loss(wide, cast, after)


def _wide(values: Array) -> Array:
    """The values as F32 if that represents them exactly, else as F64; integers as they are."""
    import numpy as np

    if values.dtype in (np.float32, np.float64) or values.dtype.kind in "iub":
        return values
    if values.dtype.itemsize <= 2:  # a type of ml_dtypes, or float16
        return values.astype(np.float32)
    return values.astype(np.float64)


def _narrowed(wide: Array) -> Array:
    """F64 as F32, rounded to odd: inexact values end in a 1 bit, so that rounding again is like rounding once."""
    import numpy as np

    near = wide.astype(np.float32)
    bits = near.view(np.uint32)
    inexact = (near != wide) & ~np.isnan(wide)
    bits[inexact & (np.abs(near) > np.abs(wide))] -= np.uint32(1)
    bits[inexact] |= np.uint32(1)
    return near


def _rounded(wide: Array, after: DType) -> Array:
    import numpy as np

    from ckptconv.core.arrays import numpy_dtype

    target = numpy_dtype(after)
    if wide.dtype == np.float32 and after is DType.BF16:
        return _bfloat16(wide.view(np.uint32)).view(target)
    if after is DType.F8_E4M3:
        return np.clip(wide, -448.0, 448.0).astype(target)
    if after is DType.F8_E8M0:
        return np.where(wide == 0, np.array(2.0**-127, wide.dtype), wide).astype(target)
    return wide.astype(target)


def _integers(wide: Array, after: DType) -> tuple[Array, Loss]:
    import numpy as np

    from ckptconv.core.arrays import numpy_dtype

    if after.kind == "bool":
        return wide.astype(np.bool_), Loss()
    low = -(1 << (after.bits - 1)) if after.kind == "int" else 0
    high = (1 << (after.bits - 1 if after.kind == "int" else after.bits)) - 1
    whole = np.int64 if after.kind == "int" else np.uint64
    if wide.dtype.kind == "f":
        exact = np.trunc(wide.astype(np.float64))
        over = ~((exact >= low) & (exact <= high) & (exact < 2.0 ** (high.bit_length())))  # NaN too
        exact = np.where(over, np.where(exact > 0, float(1 << (high.bit_length() - 1)), float(low)), exact)
        result = exact.astype(whole)
        result[over] = np.where(np.isnan(wide[over]), whole(0), np.where(wide[over] > 0, whole(high), whole(low)))
        error = _relative(result.astype(np.float64), wide.astype(np.float64))
        flushed = ~over & (result == 0) & (wide != 0)
        kept = ~over & ~flushed
        loss = Loss(int(over.sum()), int(flushed.sum()), float(error[kept].max(initial=0.0)))
    else:
        plain = wide.astype(np.uint8) if wide.dtype.kind == "b" else wide
        over = (plain < low) | (plain > high)
        result = np.where(over, np.where(plain > 0, whole(high), whole(low)), plain.astype(whole))
        loss = Loss(int(over.sum()))
    return result.astype(numpy_dtype(after)), loss


def _relative(back: Array, exact: Array) -> Array:
    import numpy as np

    error: Array = np.abs(back - exact)
    size = np.abs(exact)
    np.divide(error, size, out=error, where=size > 0)
    return error


def _loss(wide: Array, cast: Array, after: DType) -> Loss:
    import numpy as np

    exact = wide if wide.dtype.kind == "f" else wide.astype(np.float64)
    back = cast.astype(exact.dtype)
    error = _relative(back, exact)
    worst = float(error.max(initial=0.0))
    if worst < 1.0 and after not in LAST:  # then nothing overflowed or became 0; a NaN would compare as false
        return Loss(0, 0, worst)
    lost = _overflows(exact, back, after)
    flushed = (back == 0) & (exact != 0) & ~lost
    kept = np.isfinite(exact) & ~lost & ~flushed
    return Loss(int(lost.sum()), int(flushed.sum()), float(error[kept].max(initial=0.0)))


def _overflows(exact: Array, back: Array, after: DType) -> Array:
    import numpy as np

    lost: Array = np.isfinite(exact) != np.isfinite(back)
    if after in LAST:
        limit, holds = LAST[after]
        size = np.abs(exact)
        lost |= size > limit if holds else size >= limit
    return lost


def _bfloat16(bits: Array) -> Array:
    """The bits of BF16 values from those of F32 values."""
    import numpy as np

    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    result: Array = rounded.astype(np.uint16)
    nan = (bits & np.uint32(0x7FFF_FFFF)) > np.uint32(0x7F80_0000)
    if nan.any():
        kept = (bits[nan] >> np.uint32(16)).astype(np.uint16)
        result[nan] = np.where(kept & np.uint16(0x7F), kept, kept | np.uint16(0x40))  # a zero fraction means infinity
    return result


def _to_bfloat16(values: Array) -> tuple[Array, Loss]:
    import numpy as np

    from ckptconv.core.arrays import numpy_dtype

    codes = _bfloat16(values.view(np.uint32))
    back = codes.astype(np.uint32)
    back <<= np.uint32(16)
    error = back.view(np.float32)
    error -= values
    error /= values  # 0 / 0 is NaN, which fmax and fmin leave out
    worst = max(float(np.fmax.reduce(error, initial=0.0)), -float(np.fmin.reduce(error, initial=0.0)))
    cast = codes.view(numpy_dtype(DType.BF16))
    return cast, Loss(0, 0, worst) if worst < 1.0 else _loss(values, cast, DType.BF16)


@dataclass(frozen=True, slots=True)
class _Table:
    """What becomes of every value of an 8 or 16 bit type, indexed by its bits.

    codes: the new values; back: the same as F32; relative: the relative error, 0 where overflowed or flushed.
    """

    codes: Array
    back: Array
    overflowed: Array
    flushed: Array
    relative: Array


@lru_cache(maxsize=8)
def _table(before: DType, after: DType) -> _Table:
    import numpy as np

    from ckptconv.core.arrays import numpy_dtype

    all_bits = np.arange(1 << before.bits, dtype=np.uint8 if before.bits == 8 else np.uint16)
    values = all_bits.view(numpy_dtype(before))
    with np.errstate(all="ignore"):
        cast, _ = _exactly(values, after)
        exact, back = values.astype(np.float64), cast.astype(np.float64)
        if after.kind == "bool":
            lost = flushed = np.zeros(len(all_bits), dtype=np.bool_)
            relative = np.zeros(len(all_bits), dtype=np.float32)
        else:
            lost = _overflows(exact, back, after)
            if after.kind != "float":
                lost |= np.abs(back - np.trunc(exact)) > 0
            flushed = (back == 0) & (exact != 0) & ~lost
            relative = _relative(back, exact).astype(np.float32)
            relative[lost | flushed | ~np.isfinite(exact)] = 0
    return _Table(cast, back.astype(np.float32), lost, flushed, relative)


def _by_table(bits: Array, before: DType, after: DType) -> tuple[Array, Loss]:
    table = _table(before, after)
    loss = Loss(max_rel=float(table.relative.take(bits).max(initial=0.0)))
    if table.overflowed.any():
        loss.overflowed = int(table.overflowed.take(bits).sum())
    if table.flushed.any():
        loss.flushed = int(table.flushed.take(bits).sum())
    return table.codes.take(bits), loss


def _by_upper_half(values: Array, after: DType) -> tuple[Array, Loss]:
    """F32 values to a type of 8 bits or fewer, by the table of their upper halves, rounded to odd."""
    import numpy as np

    table = _table(DType.BF16, after)
    halves = values.view(np.uint16).reshape(-1, 2)
    low, high = (0, 1) if np.little_endian else (1, 0)
    bits = (halves[:, low] != 0).view(np.uint8) | halves[:, high]
    error = table.back.take(bits)
    error -= values
    error /= values  # 0 / 0 is NaN, which fmax and fmin leave out
    over, flushed = table.overflowed.take(bits), table.flushed.take(bits)
    error[over | flushed | ~np.isfinite(error)] = 0
    worst = max(float(np.fmax.reduce(error, initial=0.0)), -float(np.fmin.reduce(error, initial=0.0)))
    return table.codes.take(bits), Loss(int(over.sum()), int(flushed.sum()), worst)
