"""How the values of two tensors differ: chunk by chunk, on every core, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.checks.compare_bytes import PIECE
from ckptconv.checks.figures import Figures, figures, is_number
from ckptconv.checks.float_figures import BLOCK, FAST, FloatFigures
from ckptconv.core.spelling import to_json
from ckptconv.io.stream import GATHER_BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptconv.checks.compare_bytes import Pool, Scratch
    from ckptconv.checks.figures import Scalar
    from ckptconv.checks.tolerance import Tolerance
    from ckptconv.core.dtypes import DType
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

WIDE = 1 << 19
"""Bytes of each side that are read at a time."""

STEP = 1 << 13
"""Elements that are computed with at a time. The dozen temporary arrays stay in the cache, and below the 128 KiB from
which malloc asks the kernel for new pages every time, which took five times as long as the sums."""


@dataclass(frozen=True, slots=True)
class Values:
    """How two tensors of one shape differ.

    elements:     how many there are. differing: how many have other bits (other values, across element types).
    outside:      how many of them the tolerance does not cover.
    max_abs:      the largest ``|b - a|``; exact for integers. max_rel: the largest ``|b - a| / |a|``.
    max_ulp:      the largest number of representable steps; None across element types.
    rms:          root mean square of ``b - a``. cosine: of the angle between both. change: ``‖b - a‖ / ‖a‖``. These
                  three are taken of the pairs that are both finite, and None where they mean nothing. Of large
                  tensors of F32, F16 and BF16 they have seven digits, of others F64's.
    nan:          pairs of which one is NaN; no distance is taken of them.
    signs:        differing pairs that are equal as numbers: 0.0 and -0.0.
    cast:         the element types differ, and rounding is all that happened.
    first:        the index of the first differing element, and its values.
    bins:         the relative changes as `checks.histogram` counts them, where that was asked for; not in JSON.
    """

    elements: int
    differing: int
    outside: int
    max_abs: float | int | None
    max_rel: float | None
    max_ulp: int | None
    rms: float | None
    cosine: float | None
    change: float | None
    nan: int
    signs: int
    cast: bool
    first: tuple[int, ...] | None
    first_values: tuple[Scalar, Scalar] | None
    bins: tuple[int, ...] | None = None

    def to_dict(self) -> dict[str, Json]:
        """The figures as JSON documents spell them."""
        apart = ("first", "first_values", "bins")
        document: dict[str, Json] = {name: to_json(getattr(self, name)) for name in self.__slots__ if name not in apart}
        first = None
        if self.first is not None and self.first_values is not None:
            a, b = self.first_values
            first = {"index": list(self.first), "expected": to_json(a), "found": to_json(b)}
        return {**document, "first": first}


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


def compare_values(pairs: Sequence[Pair], pool: Pool, *, histograms: bool = False) -> list[Values]:
    """The figures of every pair; reads all of both. Pairs have to have figures. With `histograms`, `bins` as well."""
    jobs: list[tuple[int, int, int]] = []
    for i, pair in enumerate(pairs):
        step = PIECE // max(1, pair.a.info.dtype.bits // 8)
        jobs += [(i, at, min(at + step, pair.a.info.numel)) for at in range(0, pair.a.info.numel, step)]
    parts: dict[tuple[int, int], Figures] = {}

    def work(job: tuple[int, int, int], scratch: Scratch) -> None:
        i, start, stop = job
        parts[i, start] = _figures(pairs[i], start, stop, scratch, histogram=histograms)
        pool.advance(pairs[i].a.info.dtype.nbytes(stop - start))

    pool.run(jobs, work, sum(pair.a.info.nbytes for pair in pairs))
    totals = [Figures() for _ in pairs]
    for i, start, _ in jobs:
        totals[i].add(parts[i, start])
    return [_values(pair, total) for pair, total in zip(pairs, totals, strict=True)]


def _figures(pair: Pair, start: int, stop: int, scratch: Scratch, *, histogram: bool) -> Figures:
    total = Figures()
    types = pair.a.info.dtype, pair.b.info.dtype
    usual = types[0] is types[1] and types[0] in FAST and pair.tolerance.is_exact
    fast = _fast(types[0], scratch, histogram=histogram) if usual else None
    step = STEP if fast is None else BLOCK
    for count, left, right in _chunks(pair, start, stop, scratch):
        for at in range(0, count, step):
            end = min(at + step, count)
            a, b = (
                data[at * dtype.bits // 8 : dtype.nbytes(end)] for data, dtype in zip((left, right), types, strict=True)
            )
            found = None if fast is None else fast(a, b, end - at)
            total.add(found or figures(a, b, *types, end - at, pair.tolerance, histogram=histogram))
    return total


def _fast(dtype: DType, scratch: Scratch, *, histogram: bool) -> FloatFigures:
    """The worker's own, whose buffers have been touched before."""
    if dtype not in scratch.kept:
        scratch.kept[dtype] = FloatFigures(dtype, histogram=histogram)
    found: FloatFigures = scratch.kept[dtype]
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


def _values(pair: Pair, total: Figures) -> Values:
    first = None if total.first is None else _unravelled(total.first, pair.a.info.shape)
    same_type = pair.a.info.dtype == pair.b.info.dtype
    measured = total.differing > total.nan
    return Values(
        elements=total.elements,
        differing=total.differing,
        outside=total.outside,
        max_abs=total.max_abs if measured or not total.differing else None,
        max_rel=total.max_rel if measured or not total.differing else None,
        max_ulp=total.max_ulp if same_type and (measured or not total.differing) else None,
        rms=total.rms,
        cosine=total.cosine,
        change=total.change,
        nan=total.nan,
        signs=total.signs,
        cast=not same_type and (total.narrowed or total.widened),
        first=first,
        first_values=total.first_values,
        bins=None if total.bins is None else tuple(total.bins.tolist()),
    )


def _unravelled(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for n in reversed(shape):
        position, here = divmod(position, n)
        index.append(here)
    return tuple(reversed(index))
