"""The orthogonal matrices of OFT and similar, computed from the numbers that are trained.

    Q skew-symmetric              R = (I - Q)⁻¹ (I + Q)                        Cayley's transform
                                  R = I + 2Q + 2Q² + … + Qⁿ                    the start of its Neumann series
    u of length one               H = I - 2 u uᵀ, and products of such         Householder reflections
    pairs of elements             α · (cos θ, -sin θ; sin θ, cos θ)            RoAd

A row of numbers is multiplied by a matrix from the right. Everything is computed in F64.

Sources: peft's tuners/oft/layer.py, tuners/boft/layer.py, tuners/hra/layer.py and tuners/road/layer.py; LyCORIS'
functional/diag_oft.py and functional/boft.py.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


def cayley(skew: Array) -> Array:
    """Cayley's transform of each Q. Raises CorruptFileError where the numbers are too large."""
    import numpy as np

    eye = np.eye(skew.shape[-1])
    return _solve(eye - skew, eye + skew)


def series(skew: Array, terms: int) -> Array:
    """The first terms of the series, as peft has counted them since 0.18."""
    import numpy as np

    result = np.broadcast_to(np.eye(skew.shape[-1]), skew.shape).copy()
    if terms < 2:
        return result
    result += 2 * skew
    power, last = skew, max(terms, 4) if terms > 2 else 2
    for number in range(2, last):
        power = power @ skew
        result += power if number == last - 1 else 2 * power
    return result


def skew_of_upper(numbers: Array, size: int) -> Array:
    """Skew-symmetric matrices from their elements above the diagonal, row by row."""
    import numpy as np

    result = np.zeros((len(numbers), size, size), np.float64)
    result[:, *np.triu_indices(size, 1)] = numbers
    result -= result.transpose(0, 2, 1)
    return result


def shortened(skew: Array, longest: float) -> Array:
    """Each Q shortened to a norm of at most `longest` over the root of the number of matrices (COFT)."""
    import numpy as np

    longest = float(np.float32(longest / np.float32(sqrt(len(skew)))))
    norms = np.linalg.norm(skew, axis=(1, 2), keepdims=True)
    result: Array = np.where(norms <= longest, skew, skew * (longest / np.where(norms == 0, 1, norms)))
    return result


def constrained(skew: Array, longest: float) -> Array:
    """All Q together shortened to a norm of at most `longest`; 0 for no limit (LyCORIS)."""
    import numpy as np

    length = float(np.linalg.norm(skew)) + 1e-8
    return skew * (longest / length) if 0 < longest < length else skew


def householder(vectors: Array, *, orthogonal: bool) -> tuple[Array, Array]:
    """Factors, inputs × r and r × inputs, of what a product of reflections adds to I. The vectors are columns.

    (I - 2 u₁u₁ᵀ) (I - 2 u₂u₂ᵀ) … = I - U T Uᵀ, where T⁻¹ has 1/2 on its diagonal and U's inner products above it
    (Schreiber and Van Loan). orthogonal: the vectors are made orthogonal first, which leaves only T's diagonal.
    """
    import numpy as np

    if orthogonal:
        left = np.linalg.qr(vectors)[0]
        return left, -2 * left.T
    with np.errstate(divide="ignore", invalid="ignore"):  # a zero vector makes NaNs, which count as overflows
        left = vectors / np.linalg.norm(vectors, axis=0)
    inverse = np.triu(left.T @ left, 1) + 0.5 * np.eye(left.shape[1])
    return left, -_solve(inverse, left.T)


def _solve(matrices: Array, wanted: Array) -> Array:
    import numpy as np

    try:
        result: Array = np.linalg.solve(matrices, wanted)
    except np.linalg.LinAlgError as error:
        raise CorruptFileError("a rotation is of numbers that are too large", hint="do not trust it") from error
    return result


def pairs(theta: Array, alpha: Array, size: int, variant: int) -> Array:
    """RoAd's matrices: element i of a block's first half is rotated with element i of its second half.

    variant: how many numbers there are for each pair.
    """
    import numpy as np

    half = size // 2
    if variant == 4:
        theta, alpha = theta.reshape(-1, 2, 2, half), alpha.reshape(-1, 2, 2, half)
        along, across = alpha[:, 0] * np.cos(theta[:, 0]), alpha[:, 1] * np.sin(theta[:, 1])
    else:
        theta, alpha = theta.reshape(-1, variant, half), alpha.reshape(-1, variant, half)
        along, across = (np.broadcast_to(alpha * wave(theta), (len(theta), 2, half)) for wave in (np.cos, np.sin))
    result = np.zeros((len(theta), size, size), np.float64)
    first = np.arange(half)
    result[:, first, first], result[:, first + half, first + half] = along[:, 0], along[:, 1]
    result[:, first + half, first], result[:, first, first + half] = -across[:, 0], across[:, 1]
    return result


def butterfly(stage: int, count: int, *, size: int, run: int) -> Array:
    """The order in which elements are rotated in blocks at a stage.

    It takes runs by turns from two neighbouring parts, each of 2^stage half blocks. PEFT's runs are half blocks, those
    of LyCORIS single elements.
    """
    import numpy as np

    result: Array = np.arange(count).reshape(-1, 2, (size // 2 << stage) // run, run).transpose(0, 2, 1, 3).reshape(-1)
    return result
