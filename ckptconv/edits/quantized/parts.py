"""Checking the parts of a quantized weight and what is said of them, and the few that are read before the others."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.edits.through import turned
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.arrays import Array
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

Parts = Mapping[str, "LazyTensor"]
"""The tensors that a weight is stored as, by what they are."""

FLOATS = (DType.F32, DType.F16, DType.BF16)
"""Types of scales."""

MOST_NUMBERS = 1 << 22
"""Of a tensor that is read whole beforehand: columns of a matrix that was quantized in an order of its own."""


def need(tensor: LazyTensor, part: str, dtypes: Sequence[DType]) -> None:
    """Raise ValueError unless the tensor has one of these types."""
    if tensor.info.dtype not in dtypes:
        raise ValueError(f"{part} is {tensor.info.dtype}, and not {' or '.join(map(str, dtypes))}")


def scalar(tensor: LazyTensor, part: str) -> float:
    """The only element of a float tensor."""
    need(tensor, part, FLOATS)
    if tensor.info.numel != 1:
        raise ValueError(f"{part} has the shape {list(tensor.info.shape)}, and not one element")
    return float(tensor.numpy().reshape(-1)[0])


def numbers(tensor: LazyTensor, part: str, *, most: int = MOST_NUMBERS) -> Array:
    """A row of integers, read."""
    need(tensor, part, (DType.I32, DType.I64))
    if len(tensor.info.shape) != 1 or tensor.info.numel > most:
        raise ValueError(
            f"{part} has the shape {list(tensor.info.shape)}, and is not a row of at most {most:,} numbers"
        )
    return tensor.numpy()


def sizes_of(details: Mapping[str, Json], key: str) -> tuple[int, ...]:
    """A shape that the details have."""
    said = details.get(key)
    if not isinstance(said, list) or any(type(size) is not int or size < 0 for size in said):
        raise ValueError(f"{key} is a list of sizes, not {said!r}")
    return tuple(size for size in said if isinstance(size, int))


def folded(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor as a matrix: the dimensions before its last one are rows."""
    return prod(shape[:-1]), (1, *shape)[-1]


def transposed(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """The tensor under that shape with its last two dimensions exchanged, as a matrix below a matrix."""
    last = len(shape) - 1
    made = turned(reshaped(tensor, shape), (*range(last - 1), last, last - 1))
    if made is None:
        raise ValueError(f"{tensor.info.dtype} is not turned")
    return made
