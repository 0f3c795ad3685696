"""Flax's DenseGeneral (nnx.LinearGeneral), whose kernel may have several dimensions of inputs and of outputs.

    kernel [inputs.., outputs..] → weight [outputs, inputs]        bias [outputs..] → bias [outputs]

A bias has the dimensions of the outputs. One of several dimensions is therefore such a layer's, and so is a kernel
beside it that begins with these dimensions, as that of an attention's output. A kernel alone may as well be a
convolution's, but for its default name, ``DenseGeneral_0``; it is taken for one.
Source: flax/linen/linear.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.edits.dialects.change import Shape

    Path = tuple[str, ...]

_GENERAL, _CONVOLUTION = re.compile(r"(DenseGeneral|LinearGeneral)_\d+"), re.compile(r"Conv\w*_\d+")


def outputs_of(shapes: Mapping[Path, Shape]) -> dict[Path, Shape]:
    """The outputs of each DenseGeneral that has several dimensions of them, or is called so; and of each kernel that
    begins with those of a module beside it. By the module's path; shapes are those of all tensors, by path.
    """
    found: dict[Path, Shape] = {}
    around: dict[Path, set[Shape]] = defaultdict(set)
    for path, bias in shapes.items():
        kernel = shapes.get((*path[:-1], "kernel"), ())
        if path[-1] != "bias" or len(path) < 2 or len(bias) >= len(kernel) or kernel[len(kernel) - len(bias) :] != bias:
            continue
        if len(bias) > 1 or (len(kernel) > 2 and _GENERAL.fullmatch(path[-2])):
            found[path[:-1]] = bias
        if len(bias) > 1:
            around[path[:-2]].add(bias)
    for path, kernel in shapes.items():
        if len(path) < 2 or path[-1] != "kernel" or _CONVOLUTION.fullmatch(path[-2]):
            continue
        if kernel[:-1] in around[path[:-2]]:
            found.setdefault(path[:-1], kernel[-1:])
    return found


def flattened(path: Path, shape: Shape, outputs: Mapping[Path, Shape]) -> Shape | None:
    """The shape with one dimension of inputs and one of outputs, or a bias with one; None for other layers."""
    count = len(outputs.get(path[:-1], ()))
    if path[-1] == "bias":
        return (prod(shape),) if count > 1 else None
    if path[-1] != "kernel" or not count or len(shape) < 3:
        return None
    return (prod(shape[:-count]), prod(shape[-count:]))


def is_unclear(path: Path, shape: Shape) -> bool:
    """Whether it is the kernel of a DenseGeneral, of which nothing says how many dimensions the outputs have."""
    return len(path) > 1 and len(shape) > 2 and _GENERAL.fullmatch(path[-2]) is not None
