"""Arithmetic of strided views: where elements lie, without touching them."""

from __future__ import annotations

from itertools import accumulate, product
from math import prod
from operator import mul
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides, in elements, of a C-order array: ``(3, 4) -> (4, 1)``."""
    return tuple(accumulate((max(n, 1) for n in reversed(shape[1:])), mul, initial=1))[::-1] if shape else ()


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the view is one run in C order. A dimension of 1 may have any stride, and so may an empty view."""
    if 0 in shape:
        return True
    expected = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != expected:
            return False
        expected *= n
    return True


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """The number of elements from the view's first to its last in memory, inclusive; 0 for an empty view."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def memory_order(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """The permutation of axes that makes the view contiguous; None if there is none.

    ``memory_order((2, 3), (1, 2)) == (1, 0)``: a transposed matrix. A view with gaps or overlaps has none.
    """
    order = tuple(sorted(range(len(shape)), key=lambda axis: (-strides[axis], -shape[axis], axis)))
    permuted = [shape[axis] for axis in order]
    return order if is_contiguous(permuted, [strides[axis] for axis in order]) else None


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut the C-order element range ``[start, stop)`` into boxes ``(first index, size)``, in order.

    At most ``2 * len(shape) - 1`` boxes: a partial row, whole rows, a partial row, at every level.
    """
    if start >= stop:
        return
    if not shape:
        yield (), ()
        return
    inner = prod(shape[1:])
    first, skip = divmod(start, inner)
    last, rest = divmod(stop, inner)
    if first == last:
        yield from _prefixed(first, shape[1:], skip, rest)
        return
    if skip:
        yield from _prefixed(first, shape[1:], skip, inner)
        first += 1
    if first < last:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:])
    if rest:
        yield from _prefixed(last, shape[1:], 0, rest)


def chunks_of(
    begin: Sequence[int], size: Sequence[int], chunk: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], list[int], tuple[slice, ...]]]:
    """The chunks of a grid that a box overlaps: (index of the chunk, where the overlap begins in it, its slices of the
    box).

    The grid's chunks have the shape `chunk`; the box begins at the index `begin` and has the shape `size`.
    """
    ranges = [range(b // c, (b + n - 1) // c + 1) for b, n, c in zip(begin, size, chunk, strict=True)]
    for place in product(*ranges):
        low = [max(b, i * c) for b, i, c in zip(begin, place, chunk, strict=True)]
        high = [min(b + n, (i + 1) * c) for b, n, i, c in zip(begin, size, place, chunk, strict=True)]
        part = tuple(slice(lo - b, hi - b) for lo, hi, b in zip(low, high, begin, strict=True))
        yield place, [lo - i * c for lo, i, c in zip(low, place, chunk, strict=True)], part


def _prefixed(
    index: int, shape: Sequence[int], start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for begin, size in boxes(shape, start, stop):
        yield (index, *begin), (1, *size)
