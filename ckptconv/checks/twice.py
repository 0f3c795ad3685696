"""Values that were rounded twice: F32 that was BF16 for a while and is F8_E4M3 now, or F32 again.

Only pairs that one cast does not explain are looked at, and of most of them a few elements alone: where these are what
two casts give, all are compared.
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
"""Types that weights are kept in on the way to another."""

FEW = 64
"""Elements at the start and at the end that are looked at first."""

TRIES = 100
"""Pairs of two element types of which one has to be so, or the others are not looked at: a model is cast as a whole."""


def find_rounded_twice(pairs: Mapping[int, Pair], others: Mapping[int, Pair]) -> dict[int, DType]:
    """The type between, by the key of each pair whose second is the first cast to that type and then to its own.

    `others` are explained by one cast; where two explain them as well, and pairs of their types, they are given too.
    """
    found: dict[int, DType] = {}
    for between in BETWEEN:
        left = {key: pair for key, pair in pairs.items() if key not in found}
        found |= dict.fromkeys(_equal(_alike(left, between), pairs), between)
    ways = Counter((_types(pairs[key]), between) for key, between in found.items())
    for (types, between), _ in ways.most_common():
        left = {key: pair for key, pair in others.items() if key not in found and _types(pair) == types}
        found |= dict.fromkeys(_equal(_alike(left, between), others), between)
    return found


def _equal(made: Mapping[int, LazyTensor], pairs: Mapping[int, Pair]) -> list[int]:
    keys = list(made)
    unequal = find_unequal([(made[key], pairs[key].b) for key in keys], Pool(0))
    return [key for i, key in enumerate(keys) if i not in unequal]


def _types(pair: Pair) -> tuple[DType, DType]:
    return pair.a.info.dtype, pair.b.info.dtype


def _alike(pairs: Mapping[int, Pair], between: DType) -> dict[int, LazyTensor]:
    """The first of each pair, cast twice, where that is what the second begins and ends with."""
    made: dict[int, LazyTensor] = {}
    tried: Counter[tuple[DType, DType]] = Counter()
    for key, pair in pairs.items():
        before, after = types = _types(pair)
        usual = before in FLOATS and after in FLOATS and between not in types and between.bits <= before.bits
        if not usual or tried[types] > TRIES:
            continue
        cast = cast_to(cast_to(pair.a, between), after)
        few, size = FEW * after.bits // 8, pair.b.info.nbytes
        if all(cast.read(*one) == pair.b.read(*one) for one in ((0, min(few, size)), (max(0, size - few), size))):
            made[key] = cast
            tried[types] = -len(pairs)
        tried[types] += 1
    return made
