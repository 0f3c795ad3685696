"""Edits that compute values while they are read: casts, functions, parametrizations, folded norms, dequantizing and
quantizing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DTYPES
from ckptconv.edits.batch_norms.folded import folded
from ckptconv.edits.cast import cast_to
from ckptconv.edits.functions import Function, mapped
from ckptconv.edits.ggml.quantize import unfit
from ckptconv.edits.parametrized.weights import plain_weight
from ckptconv.edits.quantized.schemes import dequantized
from ckptconv.edits.quantizers.schemes import SCHEMES, coded

if TYPE_CHECKING:
    from ckptconv.core.edit import Step
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.kinds.change import Change


def cast(change: Change, step: Step) -> tuple[LazyTensor]:
    """The tensor as another element type, rounded."""
    tensor, name = change.source(step), change.details.get("dtype")
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise change.fail(f"there is no element type {name!r}")
    if tensor.info.dtype.kind in ("complex", "quantized"):
        raise change.fail(f"{tensor.info.dtype} is not cast", step.sources, "a pattern that leaves these out")
    if dtype.kind == "block" and dtype is not tensor.info.dtype and (why := unfit(tensor.info, dtype)):
        raise change.fail(f"a tensor that {why} cannot be {dtype}", step.sources, "a pattern that leaves it out")
    return (cast_to(tensor, dtype),)


def map_values(change: Change, step: Step) -> tuple[LazyTensor]:
    """The tensor with a function applied to every value; the element type stays."""
    tensor = change.source(step)
    try:
        function = Function.of(change.details)
        result = mapped(tensor, function)
    except ValueError as error:
        raise change.fail(str(error), step.sources) from error
    return (replace(result, alias=change.alias([tensor], function)),)


def dequantize(change: Change, step: Step) -> tuple[LazyTensor]:
    """The weight that is stored as several tensors, in F32."""
    tensors = tuple(change.sources(step))
    try:
        result = dequantized(tensors, change.details)
    except ValueError as error:
        raise change.fail(f"{step.targets[0]!r}: {error}", step.sources) from error
    return (replace(result, alias=change.alias(tensors)),)


def remove_parametrization(change: Change, step: Step) -> tuple[LazyTensor]:
    """The weight that a network computes of several tensors, in the first one's type."""
    tensors = change.sources(step)
    try:
        result = plain_weight(tensors, change.details)
    except ValueError as error:
        raise change.fail(f"{step.targets[0]!r}: {error}", step.sources) from error
    return (replace(result, alias=change.alias(tensors)),)


def fold_batch_norm(change: Change, step: Step) -> tuple[LazyTensor, LazyTensor]:
    """A layer's weight and bias with the batch norm behind it folded into them."""
    tensors = change.sources(step)
    if len(step.targets) != 2:
        raise change.fail("it makes a weight and a bias", step.targets)
    try:
        weight, bias = folded(tensors, change.details)
    except ValueError as error:
        raise change.fail(f"{step.targets[0]!r}: {error}", step.sources) from error
    weight_alias, bias_alias = (change.alias(tensors, i) for i in range(2))
    return replace(weight, alias=weight_alias), replace(bias, alias=bias_alias)


def quantize(change: Change, step: Step) -> list[LazyTensor]:
    """The codes of a weight, and the scheme's other tensors, such as scales."""
    tensor, scheme = change.source(step), SCHEMES.get(str(change.details.get("scheme")))
    if scheme is None:
        raise change.fail(f"it needs one of the schemes {', '.join(SCHEMES)}", step.sources)
    if len(step.targets) != 1 + len(scheme.parts):
        raise change.fail(f"{scheme.name} makes {1 + len(scheme.parts)} tensors", step.targets)
    try:
        result = coded(tensor, scheme)
    except ValueError as error:
        raise change.fail(f"{step.sources[0]!r}: {error}", step.sources) from error
    return [replace(part, alias=change.alias([tensor], scheme.name, i)) for i, part in enumerate(result)]
