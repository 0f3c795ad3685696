"""The weight and the bias that a layer has after the batch norm behind it was folded into it.

    weight' = weight · s                     s = norm.weight / √(norm.running_var + eps), one for each output
    bias'   = (bias − norm.running_mean) · s + norm.bias

A layer without a bias gets one; a norm without weight and bias has ones and zeros. Both are computed in F64 and rounded
once, to the type of the weight. Outputs are dimension 0 of the weight, in a transposed convolution dimension 1.

Source: torch/nn/utils/fusion.py, fuse_conv_bn_weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from ckptconv.core.tensor import LazyTensor, TensorInfo, depends_of
from ckptconv.edits.rounding import rounded_once
from ckptconv.edits.scaled import FLOATS, index_along, product, wide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType
    from ckptconv.core.spelling import Json

ROLES = ("weight", "bias", "gamma", "beta", "mean", "var")
"""The tensors of a step: those of the layer, then the norm's weight, bias, running_mean and running_var."""

NEEDED = ("weight", "mean", "var")


@dataclass(eq=False)
class Scales:
    """s for each index along a dimension of the weight."""

    parts: Mapping[str, LazyTensor]
    axis: int
    eps: float
    lock: Lock = field(default_factory=Lock, init=False)

    def of(self, first: int, last: int) -> Array:
        """The factors of these elements of the weight."""
        with self.lock:
            scales = self.scales
        result: Array = scales[index_along(self.axis, self.parts["weight"].info.shape, first, last)]
        return result

    @cached_property
    def scales(self) -> Array:
        """All of them."""
        return scales_of(self.parts, self.eps)

    @property
    def bias(self) -> Array:
        """The folded bias."""
        with self.lock:
            return bias_of(self.parts, self.scales)


def scales_of(parts: Mapping[str, LazyTensor], eps: float) -> Array:
    """s, in F64. Reads the norm's tensors."""
    import numpy as np

    with np.errstate(all="ignore"):
        scales: Array = 1 / np.sqrt(whole(parts["var"]) + eps)
        return scales * whole(parts["gamma"]) if "gamma" in parts else scales


def bias_of(parts: Mapping[str, LazyTensor], scales: Array) -> Array:
    """The folded bias, in F64."""
    import numpy as np

    bias = whole(parts["bias"]) if "bias" in parts else 0.0
    with np.errstate(all="ignore"):
        result: Array = (bias - whole(parts["mean"])) * scales
        return result + whole(parts["beta"]) if "beta" in parts else result


def whole(tensor: LazyTensor) -> Array:
    """All elements in F64."""
    return wide(tensor, 0, tensor.info.numel)


def folded(tensors: Sequence[LazyTensor], details: Mapping[str, Json]) -> tuple[LazyTensor, LazyTensor]:
    """The folded weight and bias. Reads nothing. `details`: the roles of the tensors as ``parts``, ``eps``, ``axis``.

    Raises ValueError, saying what does not fit.
    """
    names, eps, axis = details.get("parts"), details.get("eps", 1e-5), details.get("axis", 0)
    if not isinstance(names, list) or len(names) != len(tensors) or not {*NEEDED} <= {*names} <= {*ROLES}:
        raise ValueError(f"parts says which of {', '.join(ROLES)} each source is")
    parts = {str(name): tensor for name, tensor in zip(names, tensors, strict=True)}
    shape = parts["weight"].info.shape
    if type(axis) is not int or axis not in range(min(len(shape), 2)):
        raise ValueError(f"there is no dimension {axis!r} of outputs in {list(shape)}")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < 1:
        raise ValueError(f"eps is a small number, and not {eps!r}")
    for name, tensor in parts.items():
        if tensor.info.dtype not in FLOATS:
            raise ValueError(f"{tensor.info.dtype} is not computed with")
        if name != "weight" and tensor.info.shape != (shape[axis],):
            raise ValueError(f"{name} has the shape {list(tensor.info.shape)}, where {shape[axis]:,} outputs are due")
    scales, dtype = Scales(parts, axis, float(eps)), parts["weight"].info.dtype
    weight = product(parts["weight"], scales, tuple(tensors[1:]), dtype)
    bias = LazyTensor(TensorInfo.of(dtype, (shape[axis],)), _BiasReader(scales, dtype), depends=depends_of(tensors))
    return weight, bias


@dataclass(eq=False)
class _BiasReader:
    """Reads the folded bias, which is computed whole: it is as short as the weight has outputs."""

    scales: Scales
    dtype: DType

    def __call__(self, start: int, stop: int) -> memoryview:
        from ckptconv.core.arrays import to_bytes

        values, _ = rounded_once(self.scales.bias, self.dtype)
        return memoryview(to_bytes(values, self.dtype))[start:stop]
