"""Whether what lies in two places was one thing once: training changes all values, but leaves them much the same.

Of two matrices that were trained apart, a few hundred elements at the same places have a correlation of about 0, give
or take 1 / √n; of one that was trained on, nearly 1. A shape and a name that ends in ``weight`` say much less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.arrays import from_bytes
from ckptconv.edits.cast import FLOATS
from ckptconv.edits.views import permuted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.core.arrays import Array
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.content import Content

RUNS = 8
RUN = 64
"""Elements that are looked at: in so many places, so many behind each other."""

FEWEST = 32
"""Elements below which values by chance are alike too often."""

CORRELATED = 0.3
"""Correlation above which two tensors are kin: of 512 elements by chance, 0.3 is nearly seven standard deviations."""

DEVIATIONS = 5.0
"""Standard deviations by which it must be more than chance where there are fewer elements."""

KEPT = 256
"""Tensors whose elements are kept, 4 kB of each: more than are compared with each other at a time."""

ENOUGH = 0.25
"""Share of the pairs that tell something that must be kin, for the others to be believed by their names and shapes."""

ALL = 0.75
"""Share of the tensors of the larger side which, paired, make two sets one network, trained anew."""


class Kinship:
    """Reads some 2 kB of each tensor of F32 that it is asked about."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._samples: dict[int, tuple[LazyTensor, Array]] = {}  # of the last ones: each is compared with its likes

    def tells(self, a: LazyTensor, b: LazyTensor) -> bool:
        """Whether the values of two tensors can say anything: floats, several, and not all of them one."""
        floats = a.info.dtype in FLOATS and b.info.dtype in FLOATS and a.info.numel >= FEWEST
        return floats and self._content.is_telling(a) and self._content.is_telling(b)

    def __call__(self, a: LazyTensor, b: LazyTensor) -> bool:
        """Whether two tensors of one shape hold the same, or what was much the same before it was trained."""
        if a.info.shape != b.info.shape or not self.tells(a, b):
            return False
        content = self._content.of_pair(a, b)
        return (content is not None and content(a) == content(b)) or _correlated(self._sample(a), self._sample(b))

    def _sample(self, tensor: LazyTensor) -> Array:
        known = self._samples.get(id(tensor))
        if known is None:
            if len(self._samples) == KEPT:
                self._samples.clear()
            known = self._samples[id(tensor)] = tensor, _sample(tensor)
        return known[1]

    def turned(self, a: LazyTensor, b: LazyTensor) -> bool:
        """Whether two matrices are, as one of them is transposed."""
        view = permuted(a, (1, 0))
        return view is not None and self(view, b)

    def of_all(self, pairs: Iterable[tuple[LazyTensor, LazyTensor]]) -> bool:
        """Whether enough of the pairs are kin; where none tells anything, they are not."""
        telling = [pair for pair in pairs if self.tells(*pair)]
        wanted = max(1, round(ENOUGH * len(telling)))
        for i, pair in enumerate(telling):
            wanted -= self(*pair)
            if not wanted or wanted > len(telling) - i - 1:
                break
        return wanted == 0


def _correlated(one: Array, other: Array) -> bool:
    import numpy as np

    kept = np.isfinite(one) & np.isfinite(other)
    one, other = one[kept], other[kept]
    if one.size < FEWEST:
        return False
    one, other = one - one.mean(), other - other.mean()
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return size > 0 and float(one @ other) / size > max(CORRELATED, DEVIATIONS / one.size**0.5)


def _sample(tensor: LazyTensor) -> Array:
    """Elements at the same places of any tensor of as many, in order, as float64."""
    import numpy as np

    numel, dtype = tensor.info.numel, tensor.info.dtype
    step = max(RUN, numel // RUNS // 8 * 8)  # of types under 8 bits, eight elements are whole bytes
    runs = [(start, min(start + RUN, numel)) for start in range(0, numel, step)]
    read = [
        from_bytes(tensor.read(start * dtype.bits // 8, (stop * dtype.bits + 7) // 8), dtype, stop - start)
        for start, stop in runs
    ]
    return np.concatenate(read).astype(np.float64)
