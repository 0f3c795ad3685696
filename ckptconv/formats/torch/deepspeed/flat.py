"""Tensors cut out of the ranks' flat tensors: each is a run of one of these, or is pieced together from several."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, depends_of, in_file
from ckptconv.io.pieces import Piece, Pieces

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from ckptconv.core.tensor import RangeReader


@dataclass(frozen=True, slots=True)
class Slice:
    """Reads a part of a longer tensor, from byte `begin` on."""

    image: RangeReader
    begin: int
    light: bool = True

    def __call__(self, start: int, stop: int) -> memoryview:
        return self.image(self.begin + start, self.begin + stop)


@dataclass(frozen=True, slots=True)
class Rows:
    """Reads a tensor that consists of `size` bytes of each part, from byte `begin` of the part on."""

    parts: Sequence[LazyTensor]
    begin: int
    size: int
    light: bool = True

    def __call__(self, start: int, stop: int) -> memoryview:
        first, at = divmod(start, self.size)
        if at + stop - start <= self.size:
            return self._read(first, at, at + stop - start)
        result = bytearray(stop - start)
        done = 0
        while start + done < stop:
            part, at = divmod(start + done, self.size)
            end = min(self.size, at + stop - start - done)
            result[done : done + end - at] = self._read(part, at, end)
            done += end - at
        return memoryview(result)

    def _read(self, part: int, start: int, stop: int) -> memoryview:
        return self.parts[part].read(self.begin + start, self.begin + stop)


class Chain:
    """Flat tensors of one element type, joined: the ranks' partitions of a group."""

    def __init__(self, parts: Sequence[LazyTensor]) -> None:
        self._parts = parts
        self._ends = list(accumulate(part.info.nbytes for part in parts))
        self._image = Pieces([Piece(part, 0, part.info.nbytes) for part in parts])

    def tensor(self, at: int, shape: tuple[int, ...], alias: Hashable) -> LazyTensor:
        """The tensor of this shape from element `at` on. The caller has checked that it is in range."""
        info = TensorInfo.of(self._parts[0].info.dtype, shape)
        if not info.nbytes:
            return LazyTensor(info, lambda start, stop: memoryview(b""), None, alias)
        begin = at * (info.nbytes // prod(shape))
        first = bisect_right(self._ends, begin)
        last = bisect_right(self._ends, begin + info.nbytes - 1)
        if first == last:
            start = self._ends[first] - self._parts[first].info.nbytes
            return run(self._parts[first], begin - start, info, alias)
        return LazyTensor(info, Slice(self._image, begin), None, alias, depends_of(self._parts[first : last + 1]))


def rows(parts: Sequence[LazyTensor], at: int, count: int, shape: tuple[int, ...], alias: Hashable) -> LazyTensor:
    """The tensor of this shape of which each part has `count` elements, from its element `at` on; the last ones may be
    padding.
    """
    info = TensorInfo.of(parts[0].info.dtype, shape)
    if not info.nbytes:
        return LazyTensor(info, lambda start, stop: memoryview(b""), None, alias)
    unit = info.nbytes // prod(shape)
    if info.nbytes <= count * unit:
        return run(parts[0], at * unit, info, alias)
    held = parts[: -(-info.nbytes // (count * unit))]
    return LazyTensor(info, Rows(held, at * unit, count * unit), None, alias, depends_of(held))


def run(part: LazyTensor, begin: int, info: TensorInfo, alias: Hashable) -> LazyTensor:
    """The tensor whose elements are a run of a flat tensor, from byte `begin` on."""
    if part.span is None:
        return LazyTensor(info, Slice(part.read, begin), None, alias, part.depends)
    if info.nbytes == part.span.length:
        return in_file(info, part.span, alias, part.depends)
    span = ByteSpan(part.span.file, part.span.offset + begin, info.nbytes)
    return in_file(info, span, alias, part.depends)
