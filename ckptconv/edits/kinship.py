"""Tells whether two tensors come from one: training changes every value, but leaves most of them close.

Take a few hundred elements at the same places of two matrices. If the two were trained independently, their
correlation is about 0, give or take 1 / √n; if one was trained further to give the other, it is close to 1. That is
much better evidence than equal shapes and names that end in ``weight``.
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
"""Elements that are sampled: `RUNS` runs of `RUN` elements each."""

FEWEST = 32
"""With fewer elements than this, chance makes values similar too often."""

CORRELATED = 0.3
"""Correlation above which two tensors are kin. For 512 elements, chance gives 0.3 only at nearly 7 standard deviations.
"""

DEVIATIONS = 5.0
"""Standard deviations above chance that are required where there are fewer elements."""

KEPT = 256
"""Tensors whose samples are kept, 4 kB each: more than are compared with each other at a time."""

ENOUGH = 0.25
"""Share of the telling pairs that must be kin before the others are believed by their names and shapes."""

NEARLY_ALL = 0.75
"""Share of both sides' tensors that must be paired for the two sets to be one network trained twice."""


class Kinship:
    """Answers whether two tensors are kin. Reads 512 elements of each, some 2 kB of F32."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._samples: dict[int, tuple[LazyTensor, Array]] = {}  # a cache: a tensor is compared with many in a row

    def can_tell(self, a: LazyTensor, b: LazyTensor) -> bool:
        """Whether the values of two tensors say anything: enough floats in both, and not all the same."""
        floats = a.info.dtype in FLOATS and b.info.dtype in FLOATS and a.info.numel >= FEWEST
        return floats and self._content.is_telling(a) and self._content.is_telling(b)

    def __call__(self, a: LazyTensor, b: LazyTensor) -> bool:
        """Whether two tensors of the same shape are equal or were before training."""
        if a.info.shape != b.info.shape or not self.can_tell(a, b):
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

    def is_transposed(self, a: LazyTensor, b: LazyTensor) -> bool:
        """Whether matrix `a`, transposed, is kin to `b`."""
        view = permuted(a, (1, 0))
        return view is not None and self(view, b)

    def enough(self, pairs: Iterable[tuple[LazyTensor, LazyTensor]]) -> bool:
        """Whether `ENOUGH` of the pairs are kin, at least one. Stops reading as soon as the answer is known."""
        telling = [pair for pair in pairs if self.can_tell(*pair)]
        missing = max(1, round(ENOUGH * len(telling)))
        for i, pair in enumerate(telling):
            if self(*pair):
                missing -= 1
            pairs_left = len(telling) - i - 1
            if missing == 0 or missing > pairs_left:
                break
        return missing == 0


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
    """Some elements in order, as float64; the places depend only on the number of elements."""
    import numpy as np

    numel, dtype = tensor.info.numel, tensor.info.dtype
    step = max(RUN, numel // RUNS // 8 * 8)  # of types under 8 bits, eight elements are whole bytes
    runs = [(start, min(start + RUN, numel)) for start in range(0, numel, step)]
    read = [
        from_bytes(tensor.read(start * dtype.bits // 8, (stop * dtype.bits + 7) // 8), dtype, stop - start)
        for start, stop in runs
    ]
    return np.concatenate(read).astype(np.float64)
