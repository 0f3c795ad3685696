"""Finds values that were rounded twice: F32 that was cast to BF16, and then to F8_E4M3, or back to F32.

Only pairs that one cast does not explain are tried, and most of them by a few elements; if two casts give these, all
elements are compared.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.checks.compare_bytes import find_unequal
from ckptconv.checks.pool import Pool
from ckptconv.core.dtypes import DType
from ckptconv.edits.cast import FLOATS, cast_to

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.checks.stretch import Pair
    from ckptconv.core.tensor import LazyTensor

BETWEEN = (DType.BF16, DType.F16, DType.F8_E4M3, DType.F8_E5M2, DType.F32)
"""The types that weights may have had in between."""

FEW = 64
"""How many elements at the start and at the end are compared first."""

TRIES = 100
"""If none of this many pairs of the same two types matches, the others are not tried: models are cast as a whole."""


def find_rounded_twice(pairs: Mapping[int, Pair], others: Mapping[int, Pair]) -> dict[int, DType]:
    """The type in between, by key, for each pair whose second tensor is the first one cast to that type, and then to
    its own.

    others: pairs that one cast explains. They are included if two casts explain them as well, and also explain `pairs`
            of the same types.
    """
    found: dict[int, DType] = {}
    for between in BETWEEN:
        left = {key: pair for key, pair in pairs.items() if key not in found}
        found |= dict.fromkeys(_keys_of_equal(_likely_casts(left, between), pairs), between)
    counts = Counter((_types(pairs[key]), between) for key, between in found.items())
    for (types, between), _ in counts.most_common():
        left = {key: pair for key, pair in others.items() if key not in found and _types(pair) == types}
        found |= dict.fromkeys(_keys_of_equal(_likely_casts(left, between), others), between)
    return found


def _keys_of_equal(casts: Mapping[int, LazyTensor], pairs: Mapping[int, Pair]) -> list[int]:
    """The keys of the casts that equal the second tensor of their pair in all elements."""
    keys = list(casts)
    unequal = find_unequal([(casts[key], pairs[key].b) for key in keys], Pool(0))
    return [key for i, key in enumerate(keys) if i not in unequal]


def _types(pair: Pair) -> tuple[DType, DType]:
    return pair.a.info.dtype, pair.b.info.dtype


def _likely_casts(pairs: Mapping[int, Pair], between: DType) -> dict[int, LazyTensor]:
    """The first tensor of each pair, cast twice, if the second one begins and ends like that."""
    casts: dict[int, LazyTensor] = {}
    tried: Counter[tuple[DType, DType]] = Counter()
    for key, pair in pairs.items():
        before, after = types = _types(pair)
        is_plausible = before in FLOATS and after in FLOATS and between not in types and between.bits <= before.bits
        if not is_plausible or tried[types] > TRIES:
            continue
        cast = cast_to(cast_to(pair.a, between), after)
        few, size = FEW * after.bits // 8, pair.b.info.nbytes
        ends = (0, min(few, size)), (max(0, size - few), size)
        if all(cast.read(start, stop) == pair.b.read(start, stop) for start, stop in ends):
            casts[key] = cast
            tried[types] = -len(pairs)  # a match: all others of these types are tried too
        tried[types] += 1
    return casts
