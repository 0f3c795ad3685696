"""Readers that compute a tensor's image from another tensor's, and know what that lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from ckptconv.edits.rounding import Loss

if TYPE_CHECKING:
    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor

BLOCK = 1 << 16
"""Elements that are computed at a time: some hundred kilobytes, which stay in a core's cache."""

HEAVY = 16 << 20
"""Bytes that are read at a time of what is gathered or computed itself, where each reading may go over much of it."""


@dataclass
class Computed:
    """What is computed of a tensor's elements, in blocks; what each lost is noted, so that reading twice counts once.

    dtype: the type that comes out.
    """

    source: LazyTensor
    dtype: DType
    blocks: dict[int, Loss] = field(default_factory=dict, init=False)
    lock: Lock = field(default_factory=Lock, init=False)

    def cast_to(self, dtype: DType) -> LazyTensor | None:
        """The same rounded to another type, where its elements are computed in more digits than those of its own."""
        return None

    def note(self, first: int, loss: Loss) -> None:
        """What the block that starts at this element lost."""
        with self.lock:
            self.blocks[first] = loss

    @property
    def light(self) -> bool:
        """Whether a small range costs little memory and few calls."""
        return self.source.span is not None or getattr(self.source.reader, "light", False)

    @property
    def piece(self) -> int:
        """Elements that are read at a time: a whole number of blocks."""
        return BLOCK if self.light else max(BLOCK, HEAVY * 8 // self.source.info.dtype.bits // BLOCK * BLOCK)

    @property
    def loss(self) -> Loss:
        """What was lost in all that has been read."""
        total = Loss()
        for _, one in sorted(self.blocks.items()):  # sums of floats are the same in any order of threads
            total.add(one)
        return total
