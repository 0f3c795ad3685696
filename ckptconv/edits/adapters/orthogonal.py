"""The orthogonal matrices of OFT and its kin, of the numbers that are trained.

    Q skew-symmetric              R = (I - Q)⁻¹ (I + Q)                        Cayley's
                                  R = I + 2Q + 2Q² + … + Qⁿ                    the beginning of its series (Neumann)
    u of length one               H = I - 2 u uᵀ, and products of such         Householder's
    pairs of elements             α · (cos θ, -sin θ; sin θ, cos θ)            RoAd

Matrices stand on the right of a row of numbers. All is computed in F64.

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
    """Of many Q. Raises CorruptFileError where numbers are too large for it."""
    import numpy as np

    eye = np.eye(skew.shape[-1])
    return _solved(eye - skew, eye + skew)


def series(skew: Array, terms: int) -> Array:
    """The first terms of it, as peft has counted them since 0.18."""
    import numpy as np

    made = np.broadcast_to(np.eye(skew.shape[-1]), skew.shape).copy()
    if terms < 2:
        return made
    made += 2 * skew
    power, last = skew, max(terms, 4) if terms > 2 else 2
    for number in range(2, last):
        power = power @ skew
        made += power if number == last - 1 else 2 * power
    return made


def skew_of_upper(numbers: Array, size: int) -> Array:
    """Of the elements above the diagonal, row by row."""
    import numpy as np

    made = np.zeros((len(numbers), size, size), np.float64)
    made[:, *np.triu_indices(size, 1)] = numbers
    made -= made.transpose(0, 2, 1)
    return made


def shortened(skew: Array, longest: float) -> Array:
    """Each Q of a length of at most so much, over the root of their number (COFT)."""
    import numpy as np

    longest = float(np.float32(longest / np.float32(sqrt(len(skew)))))
    norms = np.linalg.norm(skew, axis=(1, 2), keepdims=True)
    made: Array = np.where(norms <= longest, skew, skew * (longest / np.where(norms == 0, 1, norms)))
    return made


def constrained(skew: Array, longest: float) -> Array:
    """All Q together of a length of at most so much; 0 for any (LyCORIS)."""
    import numpy as np

    length = float(np.linalg.norm(skew)) + 1e-8
    return skew * (longest / length) if 0 < longest < length else skew


def householder(vectors: Array, *, orthogonal: bool) -> tuple[Array, Array]:
    """Factors of what the product of reflections adds to I: inputs × r and r × inputs. The vectors are columns.

    (I - 2 u₁u₁ᵀ) (I - 2 u₂u₂ᵀ) … = I - U T Uᵀ, where T⁻¹ has 1/2 on its diagonal and U's inner products above it
    (Schreiber and Van Loan). orthogonal: all of them are made so before, which leaves the diagonal.
    """
    import numpy as np

    if orthogonal:
        left = np.linalg.qr(vectors)[0]
        return left, -2 * left.T
    with np.errstate(divide="ignore", invalid="ignore"):  # a vector of zeros, which is counted as lost
        left = vectors / np.linalg.norm(vectors, axis=0)
    inverse = np.triu(left.T @ left, 1) + 0.5 * np.eye(left.shape[1])
    return left, -_solved(inverse, left.T)


def _solved(matrices: Array, wanted: Array) -> Array:
    import numpy as np

    try:
        made: Array = np.linalg.solve(matrices, wanted)
    except np.linalg.LinAlgError as error:
        raise CorruptFileError("a rotation is of numbers that are too large", hint="do not trust it") from error
    return made


def pairs(theta: Array, alpha: Array, size: int, variant: int) -> Array:
    """RoAd's matrices: element i of a block's first half turns with that of its second. variant: numbers for a pair."""
    import numpy as np

    half = size // 2
    if variant == 4:
        theta, alpha = theta.reshape(-1, 2, 2, half), alpha.reshape(-1, 2, 2, half)
        along, across = alpha[:, 0] * np.cos(theta[:, 0]), alpha[:, 1] * np.sin(theta[:, 1])
    else:
        theta, alpha = theta.reshape(-1, variant, half), alpha.reshape(-1, variant, half)
        along, across = (np.broadcast_to(alpha * turn(theta), (len(theta), 2, half)) for turn in (np.cos, np.sin))
    made = np.zeros((len(theta), size, size), np.float64)
    first = np.arange(half)
    made[:, first, first], made[:, first + half, first + half] = along[:, 0], along[:, 1]
    made[:, first + half, first], made[:, first, first + half] = -across[:, 0], across[:, 1]
    return made


def butterfly(stage: int, count: int, *, size: int, run: int) -> Array:
    """The order in which elements are rotated in blocks: of two neighbouring parts of 2^stage halves of a block by
    turns a run of each. PEFT takes halves as runs, and LyCORIS single elements.
    """
    import numpy as np

    made: Array = np.arange(count).reshape(-1, 2, (size // 2 << stage) // run, run).transpose(0, 2, 1, 3).reshape(-1)
    return made
