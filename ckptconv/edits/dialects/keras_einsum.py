"""The kernels of Keras' EinsumDense: which of their dimensions are summed over, and their shapes.

In an equation as ``abc,cde->abde``, the second term is the kernel's; c is summed over, d and e are kept. An ellipsis at
either end stands for dimensions that the kernel does not have. Source: keras/src/layers/core/einsum_dense.py.
"""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.keras_variables import sizes_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.edits.dialects.keras_config import Layer
    from ckptconv.edits.dialects.keras_variables import Groups

    Shape = tuple[int, ...]

_OF_HEADS, _TO_OUTPUT = "abc,cde->abde", "abde,dec->abc"
EQUATIONS = {
    "query": _OF_HEADS, "key": _OF_HEADS, "value": _OF_HEADS, "attention_output": _TO_OUTPUT,
    "query_dense": _OF_HEADS, "key_dense": _OF_HEADS, "value_dense": _OF_HEADS, "output_dense": _TO_OUTPUT,
}  # fmt: skip
"""What the layers inside an attention compute, as far as it concerns their kernels."""

_MOST_WAYS = 64
"""How many ways to match a scale's sizes with a kernel's are tried; honest ones have one or two."""

_EQUATION = re.compile(r"(\.\.\.)?([a-zA-Z]+)(?:\.\.\.)?,([a-zA-Z]+)->(?:\.\.\.)?([a-zA-Z]+)(?:\.\.\.)?")


def equation_of(layer: Layer | None, called: str, rank: int) -> str:
    """The layer's equation, for a kernel of that rank; "" if it is not known."""
    stated = layer.settings.get("equation") if layer is not None else EQUATIONS.get(called)
    match = _EQUATION.fullmatch(stated) if isinstance(stated, str) else None
    return match[0] if match is not None and len(match[3]) == rank else ""


def kept(equation: str) -> tuple[int, ...] | None:
    """The kernel's dimensions that the output keeps; None if the output has them in another order."""
    match = _EQUATION.fullmatch(equation)
    assert match is not None
    kernel, output = match[3], match[4]
    found = tuple(place for place, label in enumerate(kernel) if label in output)
    order = [output.index(kernel[place]) for place in found]
    return found if order == sorted(order) else None


def kept_by_sizes(kernel: Shape, scale: Shape) -> tuple[int, ...] | None:
    """The kernel's dimensions that the scale has too; None if several would do, or none."""
    wanted = [size for size in scale if size != 1]
    ways: list[tuple[int, ...]] = [()]
    for size in wanted:
        ways = [
            (*way, place) for way in ways for place in range(way[-1] + 1 if way else 0, len(kernel))
            if kernel[place] == size
        ]  # fmt: skip
        if len(ways) > _MOST_WAYS:
            return None
    if len(ways) != 1 or 1 in kernel:
        return None
    return ways[0]


def einsum_variables(settings: Mapping[object, object], built: Mapping[object, object]) -> Groups:
    """The variables of an EinsumDense, as functions of `keras_variables` give them. Raises ValueError."""
    stated = settings.get("equation")
    match = _EQUATION.fullmatch(stated) if isinstance(stated, str) else None
    if match is None:
        raise ValueError("the equation does not say a size")
    sizes = _labelled(match, settings, built)
    found = [("kernel", sizes_in([sizes.get(label) for label in match[3]]))]
    if isinstance(axes := settings.get("bias_axes"), str) and axes:
        first = min(match[4].find(label) for label in axes)
        if first < 0:
            raise ValueError("the equation does not say a size")
        shape = [sizes.get(label) if label in axes else 1 for label in match[4][first:]]
        found.append(("bias", sizes_in(shape)))
    return {"": found}


def _labelled(
    match: re.Match[str], settings: Mapping[object, object], built: Mapping[object, object]
) -> dict[str, object]:
    """The sizes that the configuration says of an equation's labels."""
    sizes: dict[str, object] = {}
    inputs, outputs = built.get("input_shape"), settings.get("output_shape")
    if isinstance(inputs, (list, tuple)):
        from_end = len(inputs) - len(match[2]) if match[1] else 0
        sizes |= dict(zip(match[2], list(inputs)[max(from_end, 0) :], strict=False))
    listed = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    sizes |= {
        label: size for label, size in zip(reversed(match[4]), reversed(listed), strict=False) if size is not None
    }
    return sizes


def stated_shape(layer: Layer | None, numel: int) -> Shape | None:
    """The shape that the configuration says of a kernel of so many elements; it may leave out one size. Else None."""
    stated = layer.settings.get("equation") if layer is not None else None
    match = _EQUATION.fullmatch(stated) if isinstance(stated, str) else None
    if layer is None or match is None:
        return None
    sizes = _labelled(match, layer.settings, layer.built)
    found = [sizes.get(label) for label in match[3]]
    if found.count(None) == 1 and (known := _sizes([size for size in found if size is not None])) is not None:
        found[found.index(None)] = numel // prod(known)
    shape = _sizes(found)
    return shape if shape is not None and prod(shape) == numel else None


def shape_in_attention(
    called: str, around: Layer | None, biases: Mapping[str, Shape], matrix: tuple[int, int]
) -> Shape | None:
    """The shape of a kernel inside an attention, of which only the matrix is known; None if nothing says it.

    biases: the shapes of the biases of the attention's layers, [heads, width] for all but the output's, by the layers'
            names without ``_dense``.
    """
    part = called.removesuffix("_dense").removeprefix("attention_")
    heads = biases.get("value" if part == "output" else part)
    if heads is None and around is not None and around.class_name == "MultiHeadAttention":
        width = around.settings.get("key_dim")
        if part in ("value", "output"):
            width = around.settings.get("value_dim") or width
        heads = _sizes([around.settings.get("num_heads"), width])
    if heads is None or len(heads) != 2:
        return None
    rows, columns = matrix
    return (*heads, columns) if part == "output" else (rows, *heads)


def _sizes(values: Sequence[object]) -> Shape | None:
    found = tuple(value for value in values if type(value) is int and value > 0)
    return found if len(found) == len(values) else None
