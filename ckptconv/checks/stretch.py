"""The figures of one stretch of two tensors: read, and computed, a few elements at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.checks.figures import Figures, figures, is_number
from ckptconv.checks.float_figures import BLOCK, FAST, FloatFigures
from ckptconv.checks.joint_figures import BITS, MANY, JointFigures
from ckptconv.io.stream import GATHER_BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.checks.compare_bytes import Scratch
    from ckptconv.checks.tolerance import Tolerance
    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor

WIDE = 1 << 19
"""Bytes of each side that are read at a time."""

STEP = 1 << 13
"""Elements that are computed with at a time. The dozen temporary arrays stay in the cache, and below the 128 KiB from
which malloc asks the kernel for new pages every time, which took five times as long as the sums."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tensors of one shape, and how far they may be apart."""

    a: LazyTensor
    b: LazyTensor
    tolerance: Tolerance

    @property
    def has_figures(self) -> bool:
        """Whether both are numbers."""
        return is_number(self.a.info.dtype) and is_number(self.b.info.dtype)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for what is asked for next.

    glibc gives the end of its heap back whenever 128 KiB of it are free, until a larger block was freed once
    (mallopt(3), M_MMAP_THRESHOLD). Taking it again, page by page, took as long as the figures.
    """
    import numpy as np

    np.empty(1 << 24, np.uint8)  # no page of which is touched


def stretch_figures(pair: Pair, start: int, stop: int, scratch: Scratch, *, histogram: bool) -> Figures:
    """The figures of elements [start, stop) of both; `start` is a multiple of eight."""
    types = pair.a.info.dtype, pair.b.info.dtype
    if stop - start >= MANY and max(dtype.bits for dtype in types) <= BITS:
        joint = JointFigures(*types)
        for count, left, right in _chunks(pair, start, stop, scratch):
            joint.add(left, right, count)
        return joint.figures(pair.tolerance, histogram=histogram)
    total = Figures()
    usual = types[0] in FAST and types[1] in FAST
    fast = _fast(types, scratch, histogram=histogram) if usual else None
    step = STEP if fast is None else BLOCK
    for count, left, right in _chunks(pair, start, stop, scratch):
        for at in range(0, count, step):
            end = min(at + step, count)
            a, b = (
                data[at * dtype.bits // 8 : dtype.nbytes(end)] for data, dtype in zip((left, right), types, strict=True)
            )
            found = None if fast is None else fast(a, b, end - at, pair.tolerance)
            total.add(found or figures(a, b, *types, end - at, pair.tolerance, histogram=histogram))
    return total


def _fast(types: tuple[DType, DType], scratch: Scratch, *, histogram: bool) -> FloatFigures:
    """The worker's own, whose buffers have been touched before."""
    if types not in scratch.kept:
        scratch.kept[types] = FloatFigures(*types, histogram=histogram)
    found: FloatFigures = scratch.kept[types]
    return found


def _chunks(pair: Pair, start: int, stop: int, scratch: Scratch) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Elements [start, stop) of both, as many at a time as fit; `start` is a multiple of eight."""
    a, b = pair.a, pair.b
    bits = max(a.info.dtype.bits, b.info.dtype.bits)
    if a.span is None or b.span is None:
        step = GATHER_BLOCK // 2 * 8 // bits // 8 * 8
        for at in range(start, stop, step):
            end = min(at + step, stop)
            with scratch.gathering:
                left, right = (t.read(at * t.info.dtype.bits // 8, t.info.dtype.nbytes(end)) for t in (a, b))
            yield end - at, left, right
        return
    if scratch.wide is None:
        scratch.wide = bytearray(WIDE), bytearray(WIDE)
    step = WIDE * 8 // bits // 8 * 8
    for at in range(start, stop, step):
        end = min(at + step, stop)
        views = []
        for span, dtype, buffer in ((a.span, a.info.dtype, scratch.wide[0]), (b.span, b.info.dtype, scratch.wide[1])):
            first = at * dtype.bits // 8
            view = memoryview(buffer)[: dtype.nbytes(end) - first]
            span.file.read_into(view, span.offset + first)
            views.append(view)
        yield end - at, views[0], views[1]
