"""What two of the K-quants' kinds share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

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
