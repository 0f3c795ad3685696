"""The figures of a range of two tensors, read and computed a few elements at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.checks.figures import Figures, figures, is_number
from ckptconv.checks.float_blocks import BLOCK, FAST
from ckptconv.checks.float_figures import FloatFigures
from ckptconv.checks.joint_figures import BITS, MANY, JointFigures
from ckptconv.checks.pool import read_pieces

if TYPE_CHECKING:
    from ckptconv.checks.pool import Scratch
    from ckptconv.checks.tolerance import Tolerance
    from ckptconv.core.tensor import LazyTensor

STEP = 1 << 13
"""Elements at a time, so that the dozen temporary arrays stay in the cache."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tensors of one shape, and the tolerance for their difference."""

    a: LazyTensor
    b: LazyTensor
    tolerance: Tolerance

    @property
    def has_figures(self) -> bool:
        """Whether both hold numbers, of which figures can be given."""
        return is_number(self.a.info.dtype) and is_number(self.b.info.dtype)


def stretch_figures(pair: Pair, start: int, stop: int, scratch: Scratch, *, histogram: bool) -> Figures:
    """The figures of elements [start, stop) of both; `start` is a multiple of eight."""
    types = pair.a.info.dtype, pair.b.info.dtype
    if stop - start >= MANY and max(dtype.bits for dtype in types) <= BITS:
        joint = JointFigures(*types)
        for count, (left, right) in read_pieces((pair.a, pair.b), start, stop, scratch):
            joint.add(left, right, count)
        return joint.figures(pair.tolerance, histogram=histogram)
    total: Figures | None = None
    usual = types[0] in FAST and types[1] in FAST
    fast = scratch.own(types, lambda: FloatFigures(*types, histogram=histogram)) if usual else None
    step = STEP if fast is None else BLOCK
    for count, (left, right) in read_pieces((pair.a, pair.b), start, stop, scratch):
        for at in range(0, count, step):
            end = min(at + step, count)
            a, b = (
                data[at * dtype.bits // 8 : dtype.nbytes(end)] for data, dtype in zip((left, right), types, strict=True)
            )
            found = None if fast is None else fast(a, b, end - at, pair.tolerance)
            found = found or figures(a, b, *types, end - at, pair.tolerance, histogram=histogram)
            if total is None:
                total = found
            else:
                total.add(found)
    return total or Figures()
