"""The base of readers that compute a tensor from another and know what that lost; and questions about such tensors."""

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
"""Bytes that are read at a time of a source that is gathered or computed itself: each read may go over much of it."""


@dataclass
class Computed:
    """A reader that computes its elements from a source's, in blocks, and notes what each block lost.

    Noting by block means that reading twice counts once. So that a model that is read in order does not keep the losses
    of a million blocks, those of the first blocks are added up.

    dtype:   the type of the result.
    lost:    the sum of the losses of all elements before `counted`.
    counted: the first element that is not in that sum.
    blocks:  blocks behind it that were read already: first element → the element behind the block, loss.
    """

    source: LazyTensor
    dtype: DType
    counted: int = field(default=0, init=False)
    lost: Loss = field(default_factory=Loss, init=False)
    blocks: dict[int, tuple[int, Loss]] = field(default_factory=dict, init=False)
    lock: Lock = field(default_factory=Lock, init=False)

    def cast_to(self, dtype: DType) -> LazyTensor | None:
        """The tensor rounded to another type directly, if it is computed with more digits than its own type has."""
        return None

    def note(self, first: int, last: int, loss: Loss) -> None:
        """Note what the block of elements [first, last) lost."""
        with self.lock:
            if last > self.counted:
                self.blocks[first] = last, loss
            while (next_block := self.blocks.pop(self.counted, None)) is not None:
                self.counted, block_loss = next_block
                self.lost.add(block_loss)

    @property
    def light(self) -> bool:
        """Whether a small range costs little memory and few calls."""
        return self.source.light

    @property
    def piece(self) -> int:
        """Elements of the source that are read at a time: a multiple of `BLOCK`."""
        return BLOCK if self.light else max(BLOCK, HEAVY * 8 // self.source.info.dtype.bits // BLOCK * BLOCK)

    @property
    def quantized_as(self) -> str | None:
        """The block type, or the name of the scheme, to which the source is quantized; None if it is not."""
        return None

    @property
    def loss(self) -> Loss:
        """What was lost in everything that has been read."""
        with self.lock:
            total = replace(self.lost)
            for _, (_, loss) in sorted(self.blocks.items()):  # sorted: float sums do not depend on threads' order
                total.add(loss)
        return total


def loss_of(tensor: LazyTensor) -> Loss | None:
    """What computing this tensor has lost so far, in all its stages; None if it is not computed."""
    reader, total = tensor.reader, None
    while isinstance(reader, Computed):
        total = total or Loss()
        total.add(reader.loss)
        reader = reader.source.reader
    return total


def is_cast(tensor: LazyTensor) -> bool:
    """Whether a tensor is cast: computed with another element type, and not quantized."""
    reader = tensor.reader
    if not isinstance(reader, Computed) or reader.quantized_as is not None:
        return False
    return reader.dtype is not reader.source.info.dtype


def quantized_as(tensor: LazyTensor) -> str | None:
    """`Computed.quantized_as` of the tensor; None if it is not computed."""
    return tensor.reader.quantized_as if isinstance(tensor.reader, Computed) else None


def before_quantizing(tensor: LazyTensor) -> DType:
    """The type of a tensor, or if it became codes of a scheme, the type before that. A block type counts as a type."""
    reader, dtype = tensor.reader, tensor.info.dtype
    if isinstance(reader, Computed) and reader.quantized_as is not None and dtype.kind != "block":
        return reader.source.info.dtype
    return dtype
