"""Counts and figures of one range of a tensor, for `stats`, in a form that can be added up."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from ckptconv.checks.codes import codes_of, values_of
from ckptconv.checks.float_blocks import BLOCK, FAST, FEW, code_type, dot, f32_suffices, widened
from ckptconv.checks.pool import read_pieces
from ckptconv.core.arrays import Array, from_bytes
from ckptconv.core.dtypes import COMPONENT, DType

if TYPE_CHECKING:
    from ckptconv.checks.pool import Scratch
    from ckptconv.core.tensor import LazyTensor


MOST_BITS = 16
"""Elements of up to this many bits are counted by their codes."""


@dataclass(slots=True)
class Tally:
    """Counts of elements, and figures of the finite ones.

    inf:    infinities of both signs.
    finite: how many are finite; 0 for a complex tensor, whose elements are not examined.
    mean:   the mean of the finite ones.
    spread: the sum of their squared distances from the mean.
    """

    zeros: int = 0
    nan: int = 0
    inf: int = 0
    finite: int = 0
    min: float | int | None = None
    max: float | int | None = None
    mean: float = 0.0
    spread: float = 0.0

    def add(self, more: Tally) -> None:
        """Add the elements of another range."""
        for name in ("zeros", "nan", "inf"):
            setattr(self, name, getattr(self, name) + getattr(more, name))
        if not more.finite or more.min is None or more.max is None:
            return
        self.min = more.min if self.min is None else min(self.min, more.min)
        self.max = more.max if self.max is None else max(self.max, more.max)
        # Chan, Golub and LeVeque's update of mean and squared deviations by a further group of values
        total, delta = self.finite + more.finite, more.mean - self.mean
        self.mean += delta * more.finite / total
        self.spread += more.spread + (delta * delta * self.finite * more.finite / total if self.finite else 0.0)
        self.finite = total


def tally(tensor: LazyTensor, start: int, stop: int, scratch: Scratch) -> Tally:
    """The tally of elements [start, stop), which are numbers; `start` is a multiple of eight."""
    import numpy as np

    with np.errstate(all="ignore"):  # NaNs of every kind
        return _stretch(tensor, start, stop, scratch)


def _stretch(tensor: LazyTensor, start: int, stop: int, scratch: Scratch) -> Tally:
    dtype, total = tensor.info.dtype, Tally()
    if stop - start >= 1 << dtype.bits and dtype.bits <= MOST_BITS and dtype not in FAST:
        return _counted(tensor, start, stop, scratch)
    fast = scratch.own(dtype, lambda: FloatTally(dtype)) if dtype in FAST and stop - start >= FEW else None
    for count, (data,) in read_pieces((tensor,), start, stop, scratch):
        for at in range(0, count, BLOCK):
            end = min(at + BLOCK, count)
            part = data[at * dtype.bits // 8 : dtype.nbytes(end)]
            total.add((fast and fast(part, end - at)) or _tally(_numbers(part, dtype)[: end - at]))
    return total


def _tally(values: Array) -> Tally:
    """The tally of any values, without shortcuts."""
    import numpy as np

    found = Tally()
    found.zeros = int(np.count_nonzero(values == 0))
    if values.dtype.kind in "fc":
        nan, inf = np.isnan(values), np.isinf(values)
        found.nan, found.inf = int(np.count_nonzero(nan)), int(np.count_nonzero(inf))
        if found.nan or found.inf:
            values = values[~(nan | inf)]
    if values.dtype.kind != "c" and values.size:
        found.finite = values.size
        found.min, found.max = values.min().item(), values.max().item()
        found.mean = float(values.mean(dtype=np.float64))
        found.spread = float(((values.astype(np.float64) - found.mean) ** 2).sum())  # beyond F64 it is inf
    return found


def _numbers(data: memoryview, dtype: DType) -> Array:
    """The elements as a numpy type that can be counted with."""
    import numpy as np

    if dtype.kind == "complex" and dtype.bits == 32:
        pairs = from_bytes(data, COMPONENT[dtype], len(data) // 2).astype(np.float32)
        return pairs[0::2] + 1j * pairs[1::2]
    values = from_bytes(data, dtype, len(data) * 8 // dtype.bits)
    if dtype.kind == "float" and dtype.bits < 32:
        return values.astype(np.float32)
    return values.astype(np.int64) if dtype.kind == "bool" or dtype.bits < 8 else values


def _counted(tensor: LazyTensor, start: int, stop: int, scratch: Scratch) -> Tally:
    """The tally from counts of each code, for ranges of more elements than there are codes."""
    import numpy as np

    dtype = tensor.info.dtype
    times = np.zeros(1 << dtype.bits, np.int64)
    for count, (data,) in read_pieces((tensor,), start, stop, scratch):
        codes = codes_of(data, dtype)[:count]
        for at in range(0, count, BLOCK):
            times += np.bincount(codes[at : at + BLOCK], minlength=len(times))
    values = values_of(dtype)
    found = Tally(zeros=int(times[values == 0].sum()))
    finite = times > 0
    if values.dtype.kind == "f":
        found.nan, found.inf = int(times[np.isnan(values)].sum()), int(times[np.isinf(values)].sum())
        finite &= np.isfinite(values)
    values, times = values[finite], times[finite]
    if values.size:
        found.finite = int(times.sum())
        found.min, found.max = values.min().item(), values.max().item()
        found.mean = float((values * times.astype(np.float64)).sum()) / found.finite
        found.spread = float(((values - found.mean) ** 2 * times).sum())
    return found


class FloatTally:
    """Tallies blocks of F64, F32, F16 or BF16 whose elements are all finite; for use by one thread.

    The mean is added up in F64; distances from it are computed in F32, to seven digits, except for F64.
    """

    def __init__(self, dtype: DType) -> None:
        import numpy as np

        self.dtype = dtype
        kind = np.float64 if dtype is DType.F64 else np.float32
        self.values, self.distances, self.spare = np.empty(BLOCK, kind), np.empty(BLOCK, kind), np.empty(BLOCK, "f4")

    def __call__(self, data: memoryview, count: int) -> Tally | None:
        """The tally of at most `BLOCK` elements; None where they are not all finite, or F32 does not suffice."""
        import numpy as np

        codes = np.frombuffer(data, code_type(self.dtype))[:count]
        x = widened(codes, self.dtype, self.values, self.spare, any_order=True)
        total = float(x.sum(dtype=np.float64))
        if not isfinite(total):
            return None
        low, high = x.min().item(), x.max().item()
        mean = total / count
        d = np.subtract(x, x.dtype.type(mean), out=self.distances[:count])
        squares = dot(d, d)
        if not f32_suffices(squares, d):
            return None
        zeros = int(np.count_nonzero(x == 0)) if low <= 0 <= high else 0
        off = mean - float(x.dtype.type(mean))
        return Tally(zeros, 0, 0, count, low, high, mean, max(0.0, squares - count * off * off))
