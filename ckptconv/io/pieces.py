"""An image that is a concatenation of ranges of other tensors' images."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from ckptconv.core.tensor import depends_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.tensor import ByteSpan, LazyTensor


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``[start, stop)`` of a tensor's image."""

    tensor: LazyTensor
    start: int
    stop: int


class Pieces:
    """Reads ranges of the image that `pieces` make. Takes memory for the range, and as much again for its pieces."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = [piece for piece in pieces if piece.start < piece.stop]
        self._ends = list(accumulate(piece.stop - piece.start for piece in self._pieces))

    def __call__(self, start: int, stop: int) -> memoryview:
        index = bisect_right(self._ends, start)
        first = self._ends[index] if index < len(self._ends) else 0
        if stop <= first:
            return self._read(index, start, stop)
        buffer = bytearray(stop - start)
        at = start
        while at < stop:
            end = min(self._ends[index], stop)
            buffer[at - start : end - start] = self._read(index, at, end)
            at, index = end, index + 1
        return memoryview(buffer)

    def _read(self, index: int, start: int, stop: int) -> memoryview:
        piece = self._pieces[index]
        base = piece.start - (self._ends[index] - (piece.stop - piece.start))
        return piece.tensor.read(base + start, base + stop)

    @property
    def depends(self) -> tuple[ByteSpan, ...]:
        """The file spans that the image comes from."""
        return depends_of(piece.tensor for piece in self._pieces)
