"""A diffusion model's transformer, translated between its release's names and diffusers', both ways, by tables.

Projections that a release fuses are separate in diffusers, and shift and scale are in the opposite order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ckptconv.core.text import quoted
from ckptconv.edits.dialects.change import Change, inverse
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo

    Tensors = Mapping[str, TensorInfo]
    Parts = Mapping[str, str]

OWN = ("attn.to_q", "attn.to_k", "attn.to_v")
"""A query, a key and a value."""

_NUMBERED = re.compile(r"([0-9]{1,4})\.(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A stack of blocks. Names are those of modules, or of whole tensors.

    theirs:  diffusers' name for the stack.
    parts:   what each block contains.
    fused:   several projections in one tensor, all with equally many rows; if `grouped`, the first has as many rows as
             columns, and the others share the rest.
    wide:    the same, followed by one more projection that takes the remaining rows.
    halves:  a module that is a shift and a scale if it has two rows for each column.
    """

    theirs: str
    parts: Parts
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grouped: bool = False
    wide: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    halves: str = ""

    def sizes(self, part: str, name: str, info: TensorInfo, tensors: Tensors) -> tuple[int, ...]:
        """How many rows each fused part has; () if they are equal."""
        if part in self.fused and not self.grouped:
            return ()
        rows, width = (info.shape or (0,))[0], _matrix(name, tensors)[1]
        rest = rows - 3 * width if part in self.wide else 0
        others = width if part in self.wide else (rows - width) // 2
        return (width, others, others, *((rest,) if part in self.wide else ()))


@dataclass(frozen=True)
class Release:
    """The names of a release's tensors, and how diffusers names and arranges them.

    stems:   the modules and tensors outside of the blocks.
    stacks:  the stacks of blocks, by the release's names.
    swapped: modules outside of the blocks that hold a shift and a scale.
    unused:  tensors that diffusers does not have, since nothing is computed from them.
    called:  the model's name, if it has variants whose further tensors are not known here and which are therefore
             refused; "" if such tensors keep their names.
    """

    stems: Parts
    stacks: Mapping[str, Stack]
    swapped: Parts = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    called: str = ""

    def translated(self, tensors: Tensors) -> dict[str, Change]:
        """The changes of the release's tensors. Raises EditError if a fused one has another shape, UnsupportedError for
        a variant whose other tensors are not known.
        """
        found = {name: self._change(name, info, tensors) for name, info in tensors.items()}
        if self.called and (unknown := [name for name, change in found.items() if change is None]):
            raise UnsupportedError(
                f"--translate ldm knows no {quoted(unknown, 2)} in {self.called}",
                hint="weights may be quantized, which --dequantize undoes first; else it is of another kind of model",
            )
        return {name: change for name, change in found.items() if change is not None}

    def originals(self, tensors: Tensors) -> dict[str, Change]:
        """The changes back to the release's names. Raises EditError if a shift and scale are not two halves."""
        found = {name: self._original(name, info, tensors) for name, info in tensors.items()}
        return {name: change for name, change in found.items() if change is not None}

    def _change(self, name: str, info: TensorInfo, tensors: Tensors) -> Change | None:
        stem, _, word = name.rpartition(".")
        if name in self.unused:
            return Change(
                names=(name,), dropped=True, note=f"{name}: nothing is computed of it, and diffusers has no such"
            )
        if stem in self.swapped:
            return Change.swapped(f"{self.swapped[stem]}.{word}", name, info)
        if new := renamed(name, self.stems):
            return Change.to(new)
        for own, stack in self.stacks.items():
            if match := _inside(own, name):
                return _block_change(stack, f"{stack.theirs}.{match[1]}.", match[2], name, info, tensors)
        return None

    @cached_property
    def _inverse_tables(self) -> tuple[Parts, Parts, Mapping[str, Parts]]:
        parts = {own: inverse(stack.parts) for own, stack in self.stacks.items()}
        return inverse(self.swapped), inverse(self.stems), parts

    def _original(self, name: str, info: TensorInfo, tensors: Tensors) -> Change | None:
        swapped, stems, parts = self._inverse_tables
        stem, _, word = name.rpartition(".")
        if stem in swapped:
            return Change.swapped(f"{swapped[stem]}.{word}", name, info)
        if new := renamed(name, stems):
            return Change.to(new)
        for own, stack in self.stacks.items():
            if match := _inside(stack.theirs, name):
                return _block_original(stack, parts[own], f"{own}.{match[1]}.", match[2], name, info, tensors)
        return None


def renamed(name: str, table: Parts) -> str:
    """The new name, by the module's or by the tensor's own; "" if the table has neither."""
    stem, _, word = name.rpartition(".")
    return table.get(name) or (f"{table[stem]}.{word}" if stem in table and word in ("weight", "bias") else "")


def _block_change(
    stack: Stack, before: str, inner: str, name: str, info: TensorInfo, tensors: Tensors
) -> Change | None:
    part, _, word = inner.rpartition(".")
    if pieces := stack.fused.get(part) or stack.wide.get(part):
        sizes = stack.sizes(part, name, info, tensors)
        return Change.cut([f"{before}{each}.{word}" for each in pieces], name, info, sizes)
    new = renamed(inner, stack.parts)
    if new and stack.halves and part == stack.halves and _is_shift_and_scale(name, tensors):
        return Change.swapped(before + new, name, info)
    return Change.to(before + new) if new else None


def _block_original(
    stack: Stack, parts: Parts, before: str, inner: str, name: str, info: TensorInfo, tensors: Tensors
) -> Change | None:
    part, _, word = inner.rpartition(".")
    for whole, pieces in (*stack.wide.items(), *stack.fused.items()):
        if part in pieces:
            return Change.piece(f"{before}{whole}.{word}", pieces.index(part), len(pieces))
    new = renamed(inner, parts)
    if new and stack.halves and parts.get(part) == stack.halves and _is_shift_and_scale(name, tensors):
        return Change.swapped(before + new, name, info)
    return Change.to(before + new) if new else None


def _inside(stack: str, name: str) -> re.Match[str] | None:
    """A block's number, and the name inside the block."""
    return _NUMBERED.fullmatch(name, len(stack) + 1) if name.startswith(f"{stack}.") else None


def _is_shift_and_scale(name: str, tensors: Tensors) -> bool:
    rows, columns = _matrix(name, tensors)[:2]
    return rows == 2 * columns


def _matrix(name: str, tensors: Tensors) -> tuple[int, ...]:
    """The shape of the weight that this tensor is, or whose bias it is. Raises EditError if there is none."""
    weight = f"{name.rpartition('.')[0]}.weight"
    if weight not in tensors or len(tensors[weight].shape) != 2:
        raise EditError(f"--translate ldm: {name!r} is not understood without a matrix {weight!r}", hint="select both")
    return tensors[weight].shape
