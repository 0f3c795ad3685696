"""What several kinds of blocks share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


TINY = 1e-15
"""``GROUP_MAX_EPS``: a sub-block without a minimum, and of smaller elements, is all zeros."""


def crumbs(codes: Array) -> Array:
    """64 bytes of 2 bits an element: of each half, elements 32 apart share a byte, the first in its lowest bits; codes
    are (blocks, 256), of which the lowest 2 bits count.
    """
    import numpy as np

    halves = (codes & 3).reshape(-1, 2, 4, 32)
    joined: Array = np.bitwise_or.reduce([halves[:, :, i] << (2 * i) for i in range(4)])
    return joined.reshape(len(codes), 64)


def nibbles(codes: Array) -> Array:
    """16 bytes of each column of 32 codes of 4 bits: those 16 apart share a byte, the first in its lower bits."""
    joined: Array = codes[:16] | (codes[16:] << 4)
    return joined.T


def largest(x: Array) -> Array:
    """Of each column the element that is largest by its size, the first of equals."""
    import numpy as np

    found: Array = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    return found
