"""A tensor whose elements lie in several chunks: boxes that tile it, each an image of its own.

However a tensor was cut (by rows, by columns, in a grid), a box of whole rows of it is a run in every chunk, because
both count their elements in C order. So any range of the image is read in one run for each chunk and box.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.strided import boxes, contiguous_strides
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, LimitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.arrays import Array
    from ckptconv.core.tensor import LazyTensor

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Where a box begins, and its size."""

_Region = tuple[tuple[int, ...], tuple[int, ...], list[Box]]
"""A box, and the chunks that lie in it."""

MAX_COMPARED = 512
"""How many chunks are compared in pairs where no straight cut separates them: 130,000 comparisons."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A chunk: where it begins in the whole, its size, and the tensor that has its elements."""

    begin: tuple[int, ...]
    size: tuple[int, ...]
    tensor: LazyTensor


class Mosaic:
    """Reads ranges of the image that `tiles` make, in memory for the range and once more for one tile's part of it.

    `unit` is bytes of an element. `light`: as `LazyTensor.light`.
    """

    def __init__(self, shape: tuple[int, ...], unit: int, tiles: Sequence[Tile]) -> None:
        """The tiles have to cover the shape exactly: see `check_tiling`."""
        self._shape = shape
        self._unit = unit
        self._tiles = sorted((tile for tile in tiles if 0 not in tile.size), key=lambda tile: tile.begin)
        self._begins = [tile.begin[0] if shape else 0 for tile in self._tiles]
        ends = (tile.begin[0] + tile.size[0] if shape else 1 for tile in self._tiles)
        self._reached = list(accumulate(ends, max))
        self.light = all(tile.size[1:] == shape[1:] for tile in self._tiles)

    def __call__(self, start: int, stop: int) -> memoryview:
        import numpy as np

        unit = self._unit
        first, last = start // unit, -(-stop // unit)
        image = np.empty((last - first, unit), dtype=np.uint8)
        filled = 0
        for begin, size in boxes(self._shape, first, last):
            count = prod(size)
            self._fill(image[filled : filled + count].reshape((*size, unit)), begin, size)
            filled += count
        return image.reshape(-1).data[start - first * unit : stop - first * unit]

    def _fill(self, out: Array, begin: tuple[int, ...], size: tuple[int, ...]) -> None:
        """Fill the box `out`; each tile's part of it is one run of that tile's image."""
        import numpy as np

        for tile in self._candidates(begin, size):
            low = [max(a, b) for a, b in zip(begin, tile.begin, strict=True)]
            high = [min(a + n, b + m) for a, n, b, m in zip(begin, size, tile.begin, tile.size, strict=True)]
            part = [b - a for a, b in zip(low, high, strict=True)]
            if any(n <= 0 for n in part):
                continue
            steps = contiguous_strides(tile.size)
            at = sum((a - b) * step for a, b, step in zip(low, tile.begin, steps, strict=True)) * self._unit
            run = tile.tensor.read(at, at + prod(part) * self._unit)
            where = tuple(slice(a - b, c - b) for a, b, c in zip(low, begin, high, strict=True))
            out[where] = np.frombuffer(run, dtype=np.uint8).reshape((*part, self._unit))

    def _candidates(self, begin: tuple[int, ...], size: tuple[int, ...]) -> Sequence[Tile]:
        """The tiles that may overlap the box, judged by the first axis alone."""
        if not begin:
            return self._tiles
        return self._tiles[bisect_right(self._reached, begin[0]) : bisect_left(self._begins, begin[0] + size[0])]


def check_tiling(shape: tuple[int, ...], chunks: Sequence[Box]) -> None:
    """Raise CorruptFileError unless the chunks cover the shape exactly: none outside, no gap, no overlap.

    Straight cuts separate the chunks of every sharding by axes; chunks that none separates are compared in pairs, and
    too many of those are a LimitError. Chunks without elements are skipped.
    """
    for begin, size in chunks:
        if len(begin) != len(shape) or len(size) != len(shape):
            raise _damaged(f"a chunk has {len(size)} dimensions, and the tensor {len(shape)}")
        if any(a < 0 or n < 0 or a + n > whole for a, n, whole in zip(begin, size, shape, strict=True)):
            raise _damaged(f"the chunk {box_text(begin, size)} is outside of the shape {list(shape)}")
    waiting = [((0,) * len(shape), shape, [box for box in chunks if 0 not in box[1]])]
    if 0 in shape:
        return
    left = 64 * (len(chunks) + 64)
    while waiting:
        begin, size, inside = waiting.pop()
        left -= len(inside)
        if left < 0:
            raise LimitError("its chunks lie in no order that a sharding has")
        if inside == [(begin, size)]:
            continue
        if not inside:
            raise _damaged(f"no chunk covers {box_text(begin, size)}")
        parts = next((parts for axis in range(len(shape)) if (parts := _cut(begin, size, inside, axis))), None)
        if parts is None:
            _compare(begin, size, inside)
        else:
            waiting += parts


def _cut(begin: tuple[int, ...], size: tuple[int, ...], inside: list[Box], axis: int) -> list[_Region]:
    """The parts of a region between the straight cuts across `axis` that cross no chunk; [] without a cut."""
    inside = sorted(inside, key=lambda box: box[0][axis])
    reached = list(accumulate((box[0][axis] + box[1][axis] for box in inside), max))
    cuts = [0, *(i for i in range(1, len(inside)) if inside[i][0][axis] >= reached[i - 1]), len(inside)]
    position, end = begin[axis], begin[axis] + size[axis]
    if len(cuts) == 2 and (inside[0][0][axis], reached[-1]) == (position, end):
        return []

    def slab(start: int, stop: int, chunks: list[Box]) -> _Region:
        changed = (*begin[:axis], start, *begin[axis + 1 :]), (*size[:axis], stop - start, *size[axis + 1 :])
        return (*changed, chunks)

    parts = []
    for first, last in pairwise(cuts):
        start, stop = inside[first][0][axis], reached[last - 1]
        parts += [slab(position, start, [])] if start > position else []
        parts.append(slab(start, stop, inside[first:last]))
        position = stop
    return [*parts, slab(position, end, [])] if position < end else parts


def _compare(begin: tuple[int, ...], size: tuple[int, ...], inside: list[Box]) -> None:
    """Check chunks that no straight cut separates: no two may overlap, and their sizes have to add up."""
    if len(inside) > MAX_COMPARED:
        raise LimitError("its chunks lie in no order that a sharding has")
    for i, (a, n) in enumerate(inside):
        for b, m in inside[:i]:
            if all(x < y + k and y < x + j for x, j, y, k in zip(a, n, b, m, strict=True)):
                raise _damaged(f"the chunks {box_text(b, m)} and {box_text(a, n)} overlap")
    if sum(prod(n) for _, n in inside) != prod(size):
        raise _damaged(f"its chunks leave a gap in {box_text(begin, size)}")


def box_text(begin: tuple[int, ...], size: tuple[int, ...]) -> str:
    """A box as Python would slice it."""
    return "[" + ", ".join(f"{a}:{a + n}" for a, n in zip(begin, size, strict=True)) + "]"


def _damaged(what: str) -> CorruptFileError:
    return CorruptFileError(what, hint=COPY_ALL_AGAIN)
