"""Rows that changed places as those of attention heads do, told by a few rows of each side.

Rotary embeddings pair the numbers of a head either as neighbours or as halves; who converts from the one to the other
sees the rows as (heads, halves, 2), lets the last two change places, and back. Fused tensors keep their parts either
one after the other or head by head: (heads, parts, size) and (parts, heads, size).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.parts import divisors
from ckptconv.edits.through import turned
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptconv.core.tensor import LazyTensor

PROBES = 24
"""Rows that are compared before the whole tensor is; no two of the permutations agree on that many."""

WIDTH = 64
"""Bytes of a row that are compared."""


@dataclass(frozen=True, slots=True)
class RowPermutation:
    """Dimension 0 seen as `shape`, whose dimensions change places: dimension `i` is what ``axes[i]`` was."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def source(self, row: int) -> int:
        """Where row `row` of the result was before."""
        sizes = [self.shape[axis] for axis in self.axes]
        place = [0] * len(sizes)
        for position in reversed(range(len(sizes))):
            row, place[self.axes[position]] = divmod(row, sizes[position])
        found = 0
        for size, index in zip(self.shape, place, strict=True):
            found = found * size + index
        return found

    def apply(self, tensor: LazyTensor) -> LazyTensor | None:
        """The tensor with its rows so permuted; None where it cannot be read in that way."""
        shape = tensor.info.shape
        apart = reshaped(tensor, (*self.shape, *shape[1:]))
        rest = range(len(self.shape), len(apart.info.shape))
        view = turned(apart, (*self.axes, *rest))
        return None if view is None else reshaped(view, shape)


def find_permutation(a: LazyTensor, b: LazyTensor) -> RowPermutation | None:
    """The permutation of heads that makes `a` into `b`, as far as some rows tell; the tensors have one type and shape.

    Reads some 20 rows of `b`, and rows of `a` until one is another. None where there is none, and where they are equal.
    """
    shape = a.info.shape
    if not shape or shape[0] < 4 or not prod(shape) or a.info.dtype.bits % 8:
        return None
    if _row(a, 0) != _row(b, 0):  # the first row is the first in all of them
        return None
    probes = [(row, _row(b, row)) for row in sorted(set(_rows(shape[0])))]
    known: dict[int, bytes] = {}

    def row_of_a(row: int) -> bytes:
        if row not in known:
            known[row] = _row(a, row)
        return known[row]

    if len({data for _, data in probes}) < 2 or all(row_of_a(row) == data for row, data in probes):
        return None
    return next((one for one in _candidates(shape[0]) if _agrees(one.source, row_of_a, probes)), None)


def _agrees(source: Callable[[int], int], read: Callable[[int], bytes], probes: list[tuple[int, bytes]]) -> bool:
    return all(read(source(row)) == data for row, data in probes)


def _row(tensor: LazyTensor, row: int) -> bytes:
    width = tensor.info.nbytes // tensor.info.shape[0]
    return bytes(tensor.read(row * width, row * width + min(width, WIDTH)))


def _rows(count: int) -> Iterator[int]:
    """Rows that lie neither at the start of a head nor in one step."""
    yield from (1, 2, 3, count - 2, count // 2 + 1)
    step = count / PROBES
    yield from (min(count - 1, int(i * step) + (i * i + i) % 7) for i in range(PROBES))


def _candidates(rows: int) -> Iterator[RowPermutation]:
    for heads in divisors(rows):
        size = rows // heads
        if size % 2 == 0 and size > 2:
            yield RowPermutation((heads, size // 2, 2), (0, 2, 1))
            yield RowPermutation((heads, 2, size // 2), (0, 2, 1))
    for parts in (2, 3):
        for heads in divisors(rows // parts) if rows % parts == 0 else ():
            if heads > 1 and (size := rows // parts // heads) >= 1:
                yield RowPermutation((heads, parts, size), (1, 0, 2))
                yield RowPermutation((parts, heads, size), (1, 0, 2))
