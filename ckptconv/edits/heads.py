"""Finds the permutations of rows that converters make of attention heads, by comparing a few rows of both sides.

Rotary embeddings pair the elements of a head either as neighbours or as halves. Converting one to the other means
viewing the rows as (heads, size / 2, 2), or (heads, 2, size / 2), and swapping the last two dimensions. Fused tensors
keep their parts either one after the other or head by head: (parts, heads, size) or (heads, parts, size).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.parts import divisors
from ckptconv.edits.rearrange import transposed
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.tensor import LazyTensor

PROBES = 24
"""Rows that are compared before the whole tensor is. No two of the permutations agree on that many."""

WIDTH = 64
"""Bytes of each row that are compared."""


@dataclass(frozen=True, slots=True)
class RowPermutation:
    """Dimension 0 viewed as `shape` and transposed by `axes`: dimension `i` of the result was ``axes[i]``."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def source(self, row: int) -> int:
        """The row of the source that becomes row `row` of the result."""
        sizes = [self.shape[axis] for axis in self.axes]
        place = [0] * len(sizes)
        for position in reversed(range(len(sizes))):
            row, place[self.axes[position]] = divmod(row, sizes[position])
        found = 0
        for size, index in zip(self.shape, place, strict=True):
            found = found * size + index
        return found

    def apply(self, tensor: LazyTensor) -> LazyTensor | None:
        """The tensor with its rows permuted; None where it cannot be read in that way."""
        shape = tensor.info.shape
        apart = reshaped(tensor, (*self.shape, *shape[1:]))
        rest = range(len(self.shape), len(apart.info.shape))
        view = transposed(apart, (*self.axes, *rest))
        return None if view is None else reshaped(view, shape)


def find_permutation(a: LazyTensor, b: LazyTensor) -> RowPermutation | None:
    """The permutation of heads that turns `a` into `b`, as far as some rows show; both have the same type and shape.

    Reads some 20 rows of `b`, and for each candidate, rows of `a` until one differs. None where no permutation fits,
    and where the rows read are equal.
    """
    shape = a.info.shape
    if not shape or shape[0] < 4 or not prod(shape) or a.info.dtype.bits % 8:
        return None
    if _row(a, 0) != _row(b, 0):  # none of the permutations moves the first row
        return None
    probes = [(row, _row(b, row)) for row in sorted(set(_rows_to_probe(shape[0])))]
    known: dict[int, bytes] = {}

    def row_of_a(row: int) -> bytes:
        if row not in known:
            known[row] = _row(a, row)
        return known[row]

    if len({data for _, data in probes}) < 2 or all(row_of_a(row) == data for row, data in probes):
        return None
    for candidate in _candidates(shape[0]):
        if all(row_of_a(candidate.source(row)) == data for row, data in probes):
            return candidate
    return None


def _row(tensor: LazyTensor, row: int) -> bytes:
    width = tensor.info.nbytes // tensor.info.shape[0]
    return bytes(tensor.read(row * width, row * width + min(width, WIDTH)))


def _rows_to_probe(count: int) -> Iterator[int]:
    """Rows at irregular distances, most of them not at the start of a head."""
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
