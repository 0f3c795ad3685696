"""What a layer of an ncnn network stores: arrays, and the tensors in them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.formats.ncnn.param import bad

if TYPE_CHECKING:
    from ckptconv.formats.ncnn.param import Layer

Shape = tuple[int, ...]

INVERSE_SCALE = "_inverse_scale"
"""What the scale of 8-bit weights is called after them: ncnn divides by it."""


@dataclass(frozen=True, slots=True)
class View:
    """A tensor in a stored array.

    name:   after the layer's; empty if it is called as the layer is.
    shape:  the tensor's.
    runs:   of the array's elements; None if it is all of them.
    stored, axes: the shape of the array, and the order of its axes in the tensor, where that is another one.
    """

    name: str
    shape: Shape
    runs: tuple[tuple[int, int], ...] | None = None
    stored: Shape = ()
    axes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Slot:
    """A stored array: how many elements it has, whether a flag stands before it, and the tensors in it."""

    count: int
    flagged: bool
    views: tuple[View, ...]


def plain(name: str, *shape: int) -> Slot:
    """An array without a flag that is a tensor."""
    return Slot(prod(shape), False, (View(name, shape),))


def flagged(name: str, *shape: int) -> Slot:
    """An array with a flag that is a tensor."""
    return Slot(prod(shape), True, (View(name, shape),))


def shares(layer: Layer, key: int, *parts: int) -> int:
    """The size of weights that an option states, divided by what is known of their shape. Raises CorruptFileError."""
    size, known = layer.count(key), prod(parts)
    if size % known:
        raise bad(f"{layer.where} has {size:,} weights, which are no multiple of {known:,}")
    return size // known
