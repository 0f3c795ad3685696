"""How relative changes are spread: counts by factors of two, which add up from piece to piece.

    bin i    changes ``|b - a| / |a|`` in [2^(i - 54), 2^(i - 53)); what is smaller is in the first, larger in the last

A change of a float is at least 2^-54 of it, half of an F64's last place. The bin of a change is the exponent in its own
bits: exact, and no logarithm is taken. What was zero, or is not a number, is in no bin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


FIRST = -54
"""The power of two at which the first bin starts."""

BINS = 64

_BIAS = 1023
_SPECIAL = 2047
"""IEEE 754, F64: what its exponent's 11 bits are above the exponent, and all ones for infinity and NaN."""


def count_bins(changes: Array, times: Array | None = None) -> Array:
    """The counts of an array of F64, none of them negative, each once or that often; makes two arrays of its size."""
    import numpy as np

    exponents = (changes.view(np.uint64) >> np.uint64(52)).astype(np.intp)
    counts = np.bincount(exponents, times, minlength=_SPECIAL + 1).astype(np.int64)  # sums of weights are F64
    low = FIRST + _BIAS
    bins = counts[low : low + BINS].copy()
    bins[0] += counts[1:low].sum()  # exponent 0 is zero itself: no quotient of two F64s gets into the subnormal ones
    bins[-1] += counts[low + BINS : _SPECIAL].sum()
    return bins
