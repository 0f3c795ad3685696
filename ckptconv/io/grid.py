"""Reading an image that lies in a grid of chunks of one shape, the last of which may reach past its end."""

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

    part: the elements of a chunk, by its place in the grid: from an index in it on, as many as a size says; or one for
          all of them.
    """
    import numpy as np

    image = np.empty(stop - start, f"V{width}")
    filled = 0
    for begin, size in boxes(shape, start, stop):
        count = prod(size)
        box: Any = image[filled : filled + count].reshape(size)
        for place, within, target in chunks_of(begin, size, chunk):
            wanted = box[(*target, ...)]  # the ellipsis keeps a 0-d view a view
            wanted[...] = part(place, within, wanted.shape)
        filled += count
    return image
