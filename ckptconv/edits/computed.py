"""Readers that compute a tensor's image from another's and know what that lost, and what to ask of such tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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

    dtype:  the type that comes out.
    begun:  where the first block begins that is not counted in `lost` yet; of a model that is read in its order, the
            losses of a million blocks would be kept else.
    blocks: those behind it that are known already: where each begins, where it ends, what it lost.
    """

    source: LazyTensor
    dtype: DType
    begun: int = field(default=0, init=False)
    lost: Loss = field(default_factory=Loss, init=False)
    blocks: dict[int, tuple[int, Loss]] = field(default_factory=dict, init=False)
    lock: Lock = field(default_factory=Lock, init=False)

    def cast_to(self, dtype: DType) -> LazyTensor | None:
        """The same rounded to another type, where its elements are computed in more digits than those of its own."""
        return None

    def note(self, first: int, last: int, loss: Loss) -> None:
        """What the block of elements [first, last) lost."""
        with self.lock:
            if last > self.begun:
                self.blocks[first] = last, loss
            while (known := self.blocks.pop(self.begun, None)) is not None:
                self.begun = known[0]
                self.lost.add(known[1])

    @property
    def light(self) -> bool:
        """Whether a small range costs little memory and few calls."""
        return self.source.light

    @property
    def piece(self) -> int:
        """Elements that are read at a time: a whole number of blocks."""
        return BLOCK if self.light else max(BLOCK, HEAVY * 8 // self.source.info.dtype.bits // BLOCK * BLOCK)

    @property
    def quantized_as(self) -> str | None:
        """The block type that it gets, or the scheme by which it becomes codes; None where it is not quantized."""
        return None

    @property
    def loss(self) -> Loss:
        """What was lost in all that has been read."""
        with self.lock:
            total = replace(self.lost)
            for _, (_, one) in sorted(self.blocks.items()):  # sums of floats are the same in any order of threads
                total.add(one)
        return total


def loss_of(tensor: LazyTensor) -> Loss | None:
    """What casting this tensor, and computing it anew, has lost so far; None where neither was done."""
    reader, total = tensor.reader, None
    while isinstance(reader, Computed):
        total = total or Loss()
        total.add(reader.loss)
        reader = reader.source.reader
    return total


def is_cast(tensor: LazyTensor) -> bool:
    """Whether a tensor gets another element type, of plain elements."""
    reader = tensor.reader
    if not isinstance(reader, Computed) or reader.quantized_as is not None:
        return False
    return reader.dtype is not reader.source.info.dtype


def quantized_as(tensor: LazyTensor) -> str | None:
    """As `Computed.quantized_as`; None of what is not computed."""
    return tensor.reader.quantized_as if isinstance(tensor.reader, Computed) else None


def before_quantizing(tensor: LazyTensor) -> DType:
    """The type that a tensor has, or had before it became codes. Blocks are a type."""
    reader, dtype = tensor.reader, tensor.info.dtype
    if isinstance(reader, Computed) and reader.quantized_as is not None and dtype.kind != "block":
        return reader.source.info.dtype
    return dtype
