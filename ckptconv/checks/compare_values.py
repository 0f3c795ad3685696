"""Computes how the values of tensors differ: piece by piece, on every core, in constant memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.checks.figures import Figures
from ckptconv.checks.pool import pieces
from ckptconv.checks.processes import Helpers
from ckptconv.checks.works import FIGURES
from ckptconv.core.dtypes import DType
from ckptconv.core.memory import keep_freed_memory
from ckptconv.core.spelling import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.checks.figures import Scalar
    from ckptconv.checks.pool import Piece, Pool, Scratch
    from ckptconv.checks.stretch import Pair
    from ckptconv.core.spelling import Json


MAX_SATURATED_ROUNDING = {DType.F8_E4M3: 16.0, DType.F6_E3M2: 2.0, DType.F6_E2M3: 0.25, DType.F4: 1.0}
"""For types that clip values to their largest number: half of their largest step, the largest error by rounding."""

MAX_FLOAT = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Values:
    """How two tensors of one shape differ.

    elements:     the number of elements.
    differing:    how many have other bits (other values, if the element types differ).
    outside:      how many of these the tolerance does not cover.
    max_abs:      the largest ``|b - a|``; exact for integers.
    max_rel:      the largest ``|b - a| / |a|``.
    max_ulp:      the largest number of representable steps; None if the element types differ.
    rms:          the root mean square of ``b - a``.
    cosine:       the cosine of the angle between both tensors.
    change:       ``‖b - a‖ / ‖a‖``. Like `rms` and `cosine`, it counts only pairs that are both finite, and is None if
                  it is undefined. For large tensors of F32, F16 and BF16 they have seven digits, else those of F64.
    nan:          pairs of which one is NaN; they have no distance.
    signs:        differing pairs that are equal as numbers: 0.0 and -0.0.
    cast:         the element types differ, and rounding explains all differences, if not `overflowed`.
    overflowed:   the element types differ, and some values are out of range: they became, or were, infinite, NaN, or
                  the largest number of a type without infinity.
    first:        the index of the first differing element.
    first_values: the two values of that element.
    bins:         the relative changes as `checks.histogram` counts them, if asked for; not in JSON.
    between:      the type to which the values were rounded before they were cast to their own, if two casts explain
                  the differences and one does not.
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
    overflowed: bool
    first: tuple[int, ...] | None
    first_values: tuple[Scalar, Scalar] | None
    bins: tuple[int, ...] | None = None
    between: str | None = None

    def to_dict(self) -> dict[str, Json]:
        """The figures as JSON output has them."""
        separate = ("first", "first_values", "bins")
        names = [name for name in self.__slots__ if name not in separate]
        document: dict[str, Json] = {name: to_json(getattr(self, name)) for name in names}
        first = None
        if self.first is not None and self.first_values is not None:
            a, b = self.first_values
            first = {"index": list(self.first), "expected": to_json(a), "found": to_json(b)}
        return {**document, "first": first}


def compare_values(pairs: Sequence[Pair], pool: Pool, *, histograms: bool = False) -> list[Values]:
    """The figures of every pair; their types must have figures. Reads all tensors. `histograms` adds `bins`."""
    jobs, parts = pieces([pair.a for pair in pairs]), {}
    nbytes = sum(pair.a.info.nbytes for pair in pairs)
    if jobs:
        keep_freed_memory()
    with Helpers(nbytes) as helpers:

        def work(piece: Piece, scratch: Scratch) -> None:
            i, start, stop = piece
            a, b, near = pairs[i].a, pairs[i].b, pairs[i].tolerance
            parts[i, start] = helpers.do(
                FIGURES, (a, b), start, stop, scratch, rtol=near.rtol, atol=near.atol, ulp=near.ulp, bins=histograms
            )
            pool.advance(a.info.dtype.nbytes(stop - start))

        pool.run(jobs, work, nbytes, helpers.most)
    totals: dict[int, Figures] = {}
    for i, start, _ in jobs:
        if i in totals:
            totals[i].add(parts[i, start])
        else:
            totals[i] = parts[i, start]
    return [_values(pair, totals.get(i) or Figures()) for i, pair in enumerate(pairs)]


def _values(pair: Pair, total: Figures) -> Values:
    first = None if total.first is None else _unravel_index(total.first, pair.a.info.shape)
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
        overflowed=not same_type
        and (total.nan > 0 or total.max_abs > MAX_SATURATED_ROUNDING.get(pair.b.info.dtype, MAX_FLOAT)),
        first=first,
        first_values=total.first_values,
        bins=None if total.bins is None else tuple(total.bins.tolist()),
    )


def _unravel_index(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for n in reversed(shape):
        position, here = divmod(position, n)
        index.append(here)
    return tuple(reversed(index))
