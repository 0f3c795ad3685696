"""A transformer of a diffusion model under its release's names, with diffusers', and the other way, by tables.

What is fused in a release is apart in diffusers, and a shift and a scale change places there.
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
    """A stack of blocks. Names are of modules, or whole ones of tensors.

    theirs:  what diffusers calls it.
    parts:   what is in each block.
    fused:   several projections in one, all of as many rows; where it is `grouped` the first has as many as columns.
    wide:    likewise, and another projection follows, of whatever rows are left.
    halves:  a module that is a shift and a scale where it has two rows for each column.
    """

    theirs: str
    parts: Parts
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grouped: bool = False
    wide: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    halves: str = ""

    def sizes(self, part: str, name: str, info: TensorInfo, tensors: Tensors) -> tuple[int, ...]:
        """The rows of what is fused; () where they are alike."""
        if part in self.fused and not self.grouped:
            return ()
        rows, width = (info.shape or (0,))[0], _matrix(name, tensors)[1]
        rest = rows - 3 * width if part in self.wide else 0
        others = width if part in self.wide else (rows - width) // 2
        return (width, others, others, *((rest,) if part in self.wide else ()))


@dataclass(frozen=True)
class Release:
    """What a release calls things, and what diffusers does.

    stems:   modules and tensors outside of the blocks.
    stacks:  by what the release calls them.
    swapped: a shift and a scale, outside of the blocks.
    unused:  tensors that diffusers has not, since nothing is computed of them.
    called:  what it is, of which there are kin with tensors that are not known here; "" where such keep their names.
    """

    stems: Parts
    stacks: Mapping[str, Stack]
    swapped: Parts = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    called: str = ""

    def translated(self, tensors: Tensors) -> dict[str, Change]:
        """What becomes of the release's tensors. Raises EditError for a fused one of another shape, UnsupportedError
        for a kin of which other tensors are not known.
        """
        found = {name: self._change(name, info, tensors) for name, info in tensors.items()}
        if self.called and (strange := [name for name, change in found.items() if change is None]):
            raise UnsupportedError(
                f"--translate ldm knows no {quoted(strange, 2)} in {self.called}",
                hint="weights may be quantized, which --dequantize undoes first; else it is of another kind of model",
            )
        return {name: change for name, change in found.items() if change is not None}

    def originals(self, tensors: Tensors) -> dict[str, Change]:
        """What the release has for diffusers' tensors. Raises EditError for one that is of no halves."""
        found = {name: self._original(name, info, tensors) for name, info in tensors.items()}
        return {name: change for name, change in found.items() if change is not None}

    def _change(self, name: str, info: TensorInfo, tensors: Tensors) -> Change | None:
        stem, _, word = name.rpartition(".")
        if name in self.unused:
            return Change(
                names=(name,), gone=True, left=f"{name}: nothing is computed of it, and diffusers has no such"
            )
        if stem in self.swapped:
            return Change.swapped(f"{self.swapped[stem]}.{word}", name, info)
        if new := renamed(name, self.stems):
            return Change.to(new)
        for own, stack in self.stacks.items():
            if match := _inside(own, name):
                return _in_block(stack, f"{stack.theirs}.{match[1]}.", match[2], name, info, tensors)
        return None

    @cached_property
    def _back(self) -> tuple[Parts, Parts, Mapping[str, Parts]]:
        parts = {own: inverse(stack.parts) for own, stack in self.stacks.items()}
        return inverse(self.swapped), inverse(self.stems), parts

    def _original(self, name: str, info: TensorInfo, tensors: Tensors) -> Change | None:
        swapped, stems, parts = self._back
        stem, _, word = name.rpartition(".")
        if stem in swapped:
            return Change.swapped(f"{swapped[stem]}.{word}", name, info)
        if new := renamed(name, stems):
            return Change.to(new)
        for own, stack in self.stacks.items():
            if match := _inside(stack.theirs, name):
                return _of_block(stack, parts[own], f"{own}.{match[1]}.", match[2], name, info, tensors)
        return None


def renamed(name: str, table: Parts) -> str:
    """The name by that of its module, or its own; "" where the table has neither."""
    stem, _, word = name.rpartition(".")
    return table.get(name) or (f"{table[stem]}.{word}" if stem in table and word in ("weight", "bias") else "")


def _in_block(stack: Stack, before: str, inner: str, name: str, info: TensorInfo, tensors: Tensors) -> Change | None:
    part, _, word = inner.rpartition(".")
    if pieces := stack.fused.get(part) or stack.wide.get(part):
        sizes = stack.sizes(part, name, info, tensors)
        return Change.cut([f"{before}{each}.{word}" for each in pieces], name, info, sizes)
    new = renamed(inner, stack.parts)
    if new and stack.halves and part == stack.halves and _is_halves(name, tensors):
        return Change.swapped(before + new, name, info)
    return Change.to(before + new) if new else None


def _of_block(
    stack: Stack, parts: Parts, before: str, inner: str, name: str, info: TensorInfo, tensors: Tensors
) -> Change | None:
    part, _, word = inner.rpartition(".")
    for whole, pieces in (*stack.wide.items(), *stack.fused.items()):
        if part in pieces:
            return Change.piece(f"{before}{whole}.{word}", pieces.index(part), len(pieces))
    new = renamed(inner, parts)
    if new and stack.halves and parts.get(part) == stack.halves and _is_halves(name, tensors):
        return Change.swapped(before + new, name, info)
    return Change.to(before + new) if new else None


def _inside(stack: str, name: str) -> re.Match[str] | None:
    """A block's number, and what follows."""
    return _NUMBERED.fullmatch(name, len(stack) + 1) if name.startswith(f"{stack}.") else None


def _is_halves(name: str, tensors: Tensors) -> bool:
    rows, columns = _matrix(name, tensors)[:2]
    return rows == 2 * columns


def _matrix(name: str, tensors: Tensors) -> tuple[int, ...]:
    """The shape of the weight that a tensor is, or is the bias of. Raises EditError where there is none."""
    weight = f"{name.rpartition('.')[0]}.weight"
    if weight not in tensors or len(tensors[weight].shape) != 2:
        raise EditError(f"--translate ldm: {name!r} is not understood without a matrix {weight!r}", hint="select both")
    return tensors[weight].shape
