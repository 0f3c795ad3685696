"""Reads an image that is stored as a grid of chunks of one shape. The last chunks may extend beyond the image."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from ckptconv.core.strided import boxes, chunks_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.arrays import Array

    Part = Callable[[tuple[int, ...], list[int], tuple[int, ...]], Array]


def read_grid(shape: tuple[int, ...], chunk: tuple[int, ...], width: int, start: int, stop: int, part: Part) -> Array:
    """Elements [start, stop) of an image of this shape, of `width` bytes each, as raw bytes (``V4``).

    part: part(place, begin, size) gives the elements of the chunk at `place` in the grid, from the index `begin` in it,
          in the shape `size`; or a single element that stands for all of them.
    """
    import numpy as np

    image = np.empty(stop - start, f"V{width}")
    filled = 0
    for begin, size in boxes(shape, start, stop):
        count = prod(size)
        box: Any = image[filled : filled + count].reshape(size)
        for place, within, target in chunks_of(begin, size, chunk):
            view = box[(*target, ...)]  # with the ellipsis, a 0-d result is a view too, not a scalar
            view[...] = part(place, within, view.shape)
        filled += count
    return image
