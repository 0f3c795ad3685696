"""Computes statistics of tensors' values, in one pass, on every core, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from ckptconv.checks.pool import Pool, pieces
from ckptconv.checks.processes import Helpers
from ckptconv.checks.tally import Tally
from ckptconv.checks.works import TALLY
from ckptconv.core.arrays import NUMPY_NAMES
from ckptconv.core.dtypes import COMPONENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.checks.pool import Piece, Scratch
    from ckptconv.core.progress import Progress
    from ckptconv.core.tensor import LazyTensor


@dataclass(slots=True)
class Stats:
    """Minimum, maximum, mean and population standard deviation of the finite values, and counts.

    `inf` counts both signs. The first four are None for a complex tensor, and if no value is finite. The standard
    deviation of large tensors of F32, F16 and BF16 has seven digits.
    """

    min: float | int | None = None
    max: float | int | None = None
    mean: float | None = None
    std: float | None = None
    nan: int = 0
    inf: int = 0
    zeros: int = 0

    def to_dict(self) -> dict[str, float | int | None]:
        """The figures by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def stats(tensor: LazyTensor) -> Stats | None:
    """The statistics of a tensor. Reads all of it. None for element types that have no numbers, such as blocks."""
    return stats_of([tensor])[0]


def stats_of(tensors: Sequence[LazyTensor], progress: Progress | None = None) -> list[Stats | None]:
    """The statistics of several tensors, each as `stats` gives them. Tied ones are read once."""
    keys = [(tensor.alias, tensor.info) if tensor.alias is not None else i for i, tensor in enumerate(tensors)]
    by_key = {key: tensor for key, tensor in zip(keys, tensors, strict=True) if _has_stats(tensor)}
    distinct = list(by_key.values())
    nbytes = sum(tensor.info.nbytes for tensor in distinct)
    pool, parts = Pool(nbytes, progress), {}
    with Helpers(nbytes) as helpers:

        def work(piece: Piece, scratch: Scratch) -> None:
            i, start, stop = piece
            parts[i, start] = helpers.do(TALLY, (distinct[i],), start, stop, scratch)
            pool.advance(distinct[i].info.dtype.nbytes(stop - start))

        jobs = pieces(distinct)
        pool.run(jobs, work, nbytes, helpers.most)
    totals = [Tally() for _ in distinct]
    for i, start, _ in jobs:
        totals[i].add(parts.pop((i, start)))
    stats_by_key = dict(zip(by_key, map(_stats, totals), strict=True))
    return [stats_by_key.get(key) for key in keys]


def _has_stats(tensor: LazyTensor) -> bool:
    return tensor.info.dtype in NUMPY_NAMES or tensor.info.dtype in COMPONENT


def _stats(tally: Tally) -> Stats:
    result = Stats(tally.min, tally.max, nan=tally.nan, inf=tally.inf, zeros=tally.zeros)
    if tally.min is not None and tally.min == tally.max:  # exact: sums would round, and large squares overflow
        result.mean, result.std = float(tally.min), 0.0
    elif tally.finite:
        result.mean, result.std = tally.mean, sqrt(tally.spread / tally.finite)
    return result
