"""What puts the results of several branches together: their attributes, and the shapes of what they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.arch.recipe.catalog import REQUIRED, Attribute, Dim, Dims
from ckptconv.core.text import shape_text
from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Join:
    """How branches are put together.

    kind:       the operation's, in a program.
    shape:      computes the shape of the result. Raises CorruptFileError if the branches do not fit together.
    pairwise:   whether it takes two at a time, from the first on.
    branches:   how many there are; None for two or more.
    attributes: defaults by name, as those of `catalog.Kind`.
    """

    kind: str
    shape: Callable[[Sequence[Dims], Mapping[str, Attribute]], Dims]
    pairwise: bool = False
    branches: int | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)


def _broadcast(inputs: Sequence[Dims], attributes: Mapping[str, Attribute]) -> Dims:
    """As torch and ONNX broadcast, but that all have the same number of dimensions."""
    result = inputs[0]
    for dims in inputs[1:]:
        if len(dims) != len(result):
            raise CorruptFileError(f"{shape_text(dims)} does not go with {shape_text(result)}")
        result = tuple(_wider(a, b) for a, b in zip(result, dims, strict=True))
    return result


def _wider(one: Dim, other: Dim) -> Dim:
    if one == 1 or one == other:
        return other
    if other == 1 or not (isinstance(one, int) and isinstance(other, int)):
        return one
    raise CorruptFileError(f"{one} elements do not go with {other}")


def _concat(inputs: Sequence[Dims], attributes: Mapping[str, Attribute]) -> Dims:
    axis, first = int(attributes["axis"]), inputs[0]
    if not 0 <= axis < len(first) or any(len(dims) != len(first) for dims in inputs):
        raise CorruptFileError(f"nothing is joined along axis {axis} of {', '.join(map(shape_text, inputs))}")
    total: Dim = 0
    for dims in inputs:
        total = total + size if isinstance(size := dims[axis], int) and isinstance(total, int) else None
        _broadcast([(*first[:axis], *first[axis + 1 :]), (*dims[:axis], *dims[axis + 1 :])], {})
    return (*first[:axis], total, *first[axis + 1 :])


def _attention(inputs: Sequence[Dims], attributes: Mapping[str, Attribute]) -> Dims:
    heads = int(attributes["heads"])
    if any(len(dims) != 3 for dims in inputs):
        raise CorruptFileError("queries, keys and values have three dimensions: batch, length, width")
    widths = {dims[2] for dims in inputs}
    if len(widths) > 1 or not all(isinstance(width, int) and width % heads == 0 for width in widths):
        raise CorruptFileError(f"{', '.join(map(shape_text, inputs))} do not divide into {heads} heads of one width")
    return inputs[0]


JOINS: dict[str, Join] = {
    "sum": Join("add", _broadcast, pairwise=True),
    "product": Join("mul", _broadcast, pairwise=True),
    "concat": Join("concat", _concat, attributes={"axis": 1}),
    "attention": Join("attention", _attention, branches=3, attributes={"heads": REQUIRED, "causal": False}),
}
"""By the word that a block of branches begins with; attention takes queries, keys and values, in this order."""
