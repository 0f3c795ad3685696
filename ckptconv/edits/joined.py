"""Tensors as one, side by side along a dimension, without reading them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.errors import UnsupportedError
from ckptconv.io.pieces import Piece, Pieces

if TYPE_CHECKING:
    from collections.abc import Sequence


def joined(tensors: Sequence[LazyTensor], axis: int) -> LazyTensor:
    """The tensors along `axis`; all other dimensions and the element type are equal.

    Raises UnsupportedError for elements of under 8 bits whose rows end within a byte.
    """
    first = tensors[0].info
    shape = list(first.shape)
    shape[axis] = sum(tensor.info.shape[axis] for tensor in tensors)
    info = TensorInfo.of(first.dtype, tuple(shape))
    depends = tuple(dict.fromkeys(span for tensor in tensors for span in tensor.depends))
    rows = prod(first.shape[:axis])
    bits = [prod(tensor.info.shape[axis:]) * first.dtype.bits for tensor in tensors]
    if any(size % 8 for size in bits) and rows * len(tensors) > 1:
        raise UnsupportedError(
            f"rows of {first.dtype} that end within a byte cannot be joined", hint="--dtype casts them"
        )
    return LazyTensor(
        info, Joined(tuple(tensors), axis, info.shape, tuple(size // 8 for size in bits)), depends=depends
    )


@dataclass(frozen=True)
class Joined:
    """Reads ranges of an image whose every row is a row of each tensor, one after the other.

    axis:   the dimension along which they are joined; a row is all that lies within one index of those before it.
    shape:  of the whole.
    widths: bytes of each tensor's rows.
    """

    tensors: tuple[LazyTensor, ...]
    axis: int
    shape: tuple[int, ...]
    widths: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> memoryview:
        if prod(self.shape[: self.axis]) <= 1:
            return Pieces([Piece(tensor, 0, tensor.info.nbytes) for tensor in self.tensors])(start, stop)
        import numpy as np

        whole = sum(self.widths)
        first, last = start // whole, -(-stop // whole)
        rows = np.empty((last - first, whole), dtype=np.uint8)
        at = 0
        for tensor, width in zip(self.tensors, self.widths, strict=True):
            if width:
                part = np.frombuffer(tensor.read(first * width, last * width), dtype=np.uint8)
                rows[:, at : at + width] = part.reshape(-1, width)
            at += width
        return memoryview(rows.reshape(-1))[start - first * whole : stop - first * whole]  # type: ignore[arg-type]
