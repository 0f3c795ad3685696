"""Helpers that several kinds of blocks share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


TINY = 1e-15
"""``GROUP_MAX_EPS``: a sub-block without a minimum and with smaller elements is all zeros."""


def crumbs(codes: Array) -> Array:
    """Two bits of each element as 64 bytes. codes: (blocks, 256); only the lowest 2 bits count.

    In each half of a block, elements 32 apart share a byte, the first in its lowest bits.
    """
    import numpy as np

    halves = (codes & 3).reshape(-1, 2, 4, 32)
    joined: Array = np.bitwise_or.reduce([halves[:, :, i] << (2 * i) for i in range(4)])
    return joined.reshape(len(codes), 64)


def nibbles(codes: Array) -> Array:
    """16 bytes for each column of 32 4-bit codes: those 16 apart share a byte, the first in the lower bits."""
    joined: Array = codes[:16] | (codes[16:] << 4)
    return joined.T


def largest(x: Array) -> Array:
    """The element with the largest absolute value in each column; of equals, the first."""
    import numpy as np

    found: Array = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    return found
