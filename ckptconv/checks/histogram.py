"""Histograms of relative changes: counts by powers of two, which can be added up over pieces.

    bin i    changes ``|b - a| / |a|`` in [2^(i - 54), 2^(i - 53)); the first has smaller ones too, the last larger ones

A float changes by at least 2^-54 of itself, half of an F64's last place. The bin of a change is read from the exponent
in its bits, which is exact and needs no logarithm. Changes of zeros, and those that are not a number, are in no bin.
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
"""IEEE 754, F64: the bias of the 11-bit exponent, and its value for infinity and NaN."""


def count_bins(changes: Array, times: Array | None = None) -> Array:
    """The bins of F64 that are not negative, each counted once, or `times`; makes two arrays of their size."""
    import numpy as np

    exponents = (changes.view(np.uint64) >> np.uint64(52)).astype(np.intp)
    counts = np.bincount(exponents, times, minlength=_SPECIAL + 1).astype(np.int64)  # sums of weights are F64
    low = FIRST + _BIAS
    bins = counts[low : low + BINS].copy()
    bins[0] += counts[1:low].sum()  # exponent 0 is zero itself: no quotient of two F64s gets into the subnormal ones
    bins[-1] += counts[low + BINS : _SPECIAL].sum()
    return bins
