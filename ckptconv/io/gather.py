"""Reading a strided view of a storage as its image, in bounded memory.

A transposed matrix lies in its file as columns. A range of its image is cut into boxes (core.strided), and each box is
read in runs: where the gaps between runs are small, reading over them is cheaper than one system call for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import COMPONENT
from ckptconv.core.strided import boxes, contiguous_strides, extent, is_contiguous
from ckptconv.core.tensor import LazyTensor, Placement, Storage, in_file

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import ByteSpan, TensorInfo

SCRATCH = 4 << 20
"""Bytes read at a time when a box is dense enough to be read whole."""

CHEAP_GAP = 16 << 10
"""The gap that takes as long to read over as one more system call takes: some 2 µs at 8 GB/s."""

_UNSIGNED = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8", 16: "<c16"}


@dataclass(frozen=True, slots=True)
class Gather:
    """Reads ranges of the image of a placed tensor; one call needs memory for the range and SCRATCH bytes."""

    placement: Placement
    dtype: DType

    def __call__(self, start: int, stop: int) -> memoryview:
        import numpy as np

        place = self.placement
        unit = place.storage.unit
        first, last = start // unit, -(-stop // unit)
        image = np.empty(last - first, dtype=_UNSIGNED[unit])
        filled = 0
        for begin, size in boxes(place.shape, first, last):
            count = prod(size)
            offset = place.offset + sum(i * s for i, s in zip(begin, place.strides, strict=True))
            self._fill(image[filled : filled + count].reshape(size), offset, place.strides)
            filled += count
        self._resolve(image)
        return image.view("u1").data[start - first * unit : stop - first * unit]

    def _fill(self, out: Array, offset: int, strides: tuple[int, ...]) -> None:
        """Fill the box `out`, whose first element is the storage's element `offset`."""
        unit = self.placement.storage.unit
        axes = [axis for axis, n in enumerate(out.shape) if n > 1 and strides[axis]]
        axes.sort(key=lambda axis: strides[axis], reverse=True)
        # An expanded axis (stride 0) repeats one element: gather it once, let assignment spread it.
        once = tuple(slice(None) if axis in axes else slice(0, 1) for axis in range(out.ndim))
        core = out[(*once, ...)]  # the ellipsis keeps a 0-d view a view
        self._gather(core, offset, strides, axes, unit)
        if core.shape != out.shape:
            out[...] = core

    def _gather(self, out: Array, offset: int, strides: tuple[int, ...], axes: list[int], unit: int) -> None:
        span = extent(out.shape, strides)
        if span * unit <= SCRATCH and self._dense(out.shape, strides, axes, unit):
            out[...] = self._strided(offset, span, out.shape, strides)
            return
        axis, inner = axes[0], axes[1:]
        below = extent([n if a != axis else 1 for a, n in enumerate(out.shape)], strides)
        if (
            below * unit <= SCRATCH
            and (strides[axis] - below) * unit > CHEAP_GAP
            and self._dense(out.shape, strides, inner, unit)
        ):
            self._runs(out, offset, strides, axis, below)
            return
        gap = (strides[axis] - below) * unit
        step = max(1, (SCRATCH // unit - below) // strides[axis]) if gap <= CHEAP_GAP else 1
        if step >= out.shape[axis]:  # it is an inner axis that has to be cut
            step = 1
        for index in range(0, out.shape[axis], step):
            part = out[(slice(None),) * axis + (slice(index, index + step),)]
            self._gather(part, offset + index * strides[axis], strides, axes if step > 1 else inner, unit)

    def _runs(self, out: Array, offset: int, strides: tuple[int, ...], axis: int, run: int) -> None:
        """Read a run of `run` elements for each index of `axis`, many into one buffer, and copy them at once."""
        import numpy as np

        storage = self.placement.storage
        unit, file, base = storage.unit, storage.span.file, storage.span.offset
        many = max(1, SCRATCH // (run * unit))
        scratch = bytearray(min(many, out.shape[axis]) * run * unit)
        rows = memoryview(scratch)
        steps = [0 if n == 1 else s * unit for n, s in zip(out.shape, strides, strict=True)]
        steps[axis] = run * unit
        for first in range(0, out.shape[axis], many):
            part = out[(slice(None),) * axis + (slice(first, first + many),)]
            at = base + (offset + first * strides[axis]) * unit
            for row in range(part.shape[axis]):
                file.read_into(rows[row * run * unit : (row + 1) * run * unit], at + row * strides[axis] * unit)
            part[...] = np.ndarray(part.shape, dtype=_UNSIGNED[unit], buffer=scratch, strides=steps)

    def _dense(self, shape: tuple[int, ...], strides: tuple[int, ...], axes: list[int], unit: int) -> bool:
        """Whether reading over the gaps between runs is cheaper than a system call for each run."""
        below = 1
        for axis in reversed(axes):
            if (strides[axis] - below) * unit > CHEAP_GAP:
                return False
            below += (shape[axis] - 1) * strides[axis]
        return True

    def _strided(self, offset: int, span: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
        import numpy as np

        storage = self.placement.storage
        unit = storage.unit
        data = storage.span.file.read_at(storage.span.offset + offset * unit, span * unit)
        steps = tuple(0 if n == 1 else s * unit for n, s in zip(shape, strides, strict=True))
        return np.ndarray(shape, dtype=_UNSIGNED[unit], buffer=data, strides=steps)

    def _resolve(self, image: Array) -> None:
        """Turn what the storage holds into values: byte order, then the lazy conjugate and negative."""
        place = self.placement
        component = COMPONENT.get(self.dtype)
        part = component.bits // 8 if component else place.storage.unit
        words = image.view(_UNSIGNED[part])
        if place.storage.swapped:
            words.byteswap(inplace=True)
        sign = 1 << (8 * part - 1)  # both bits only occur on floating-point and complex values
        if place.neg and self.dtype.kind in ("float", "complex"):
            words ^= words.dtype.type(sign)
        if place.conj and component:
            words[1::2] ^= words.dtype.type(sign)


def laid_out(
    info: TensorInfo, span: ByteSpan, alias: Hashable, strides: tuple[int, ...] | None = None, *, swapped: bool = False
) -> LazyTensor:
    """A tensor whose elements fill a span, with these strides (None: in C order), big-endian where `swapped`."""
    unit = info.dtype.bits // 8
    straight = strides is None or is_contiguous(info.shape, strides)
    if not info.nbytes or (straight and (not swapped or unit == 1)):
        return in_file(info, span, alias)
    storage = Storage(alias, span, unit, info.numel, info.dtype, swapped)
    place = Placement(storage, 0, info.shape, contiguous_strides(info.shape) if strides is None else strides)
    return LazyTensor(info, Gather(place, info.dtype), None, alias, (span,), place)
