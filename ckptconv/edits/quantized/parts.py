"""Checks the parts of a quantized weight and its settings; reads the few that are needed before the others."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.edits.rearrange import transposed
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.arrays import Array
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

Parts = Mapping[str, "LazyTensor"]
"""The tensors that a weight is stored as, by role."""

FLOATS = (DType.F32, DType.F16, DType.BF16)
"""Types of scales."""

MOST_NUMBERS = 1 << 22
"""The most elements of a tensor that is read whole: columns of a matrix that were quantized in another order."""


def check_dtype(tensor: LazyTensor, part: str, dtypes: Sequence[DType]) -> None:
    """Raise ValueError unless the tensor has one of these types."""
    if tensor.info.dtype not in dtypes:
        raise ValueError(f"{part} is {tensor.info.dtype}, and not {' or '.join(map(str, dtypes))}")


def scalar(tensor: LazyTensor, part: str) -> float:
    """The only element of a float tensor."""
    check_dtype(tensor, part, FLOATS)
    if tensor.info.numel != 1:
        raise ValueError(f"{part} has the shape {list(tensor.info.shape)}, and not one element")
    return float(tensor.numpy().reshape(-1)[0])


def numbers(tensor: LazyTensor, part: str, *, most: int = MOST_NUMBERS) -> Array:
    """A one-dimensional tensor of integers, read."""
    check_dtype(tensor, part, (DType.I32, DType.I64))
    if len(tensor.info.shape) != 1 or tensor.info.numel > most:
        raise ValueError(
            f"{part} has the shape {list(tensor.info.shape)}, and is not a row of at most {most:,} numbers"
        )
    return tensor.numpy()


def sizes_of(details: Mapping[str, Json], key: str) -> tuple[int, ...]:
    """A shape in the details."""
    sizes = details.get(key)
    if not isinstance(sizes, list) or any(type(size) is not int or size < 0 for size in sizes):
        raise ValueError(f"{key} is a list of sizes, not {sizes!r}")
    return tuple(size for size in sizes if isinstance(size, int))


def folded(shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape as a matrix: all dimensions before the last are rows."""
    return prod(shape[:-1]), (1, *shape)[-1]


def swap_last_axes(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """The tensor reshaped to `shape`, with its last two dimensions swapped."""
    last = len(shape) - 1
    result = transposed(reshaped(tensor, shape), (*range(last - 1), last, last - 1))
    if result is None:
        raise ValueError(f"{tensor.info.dtype} is not turned")
    return result
