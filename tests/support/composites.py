"""torch's quantized and sparse tensors, and an equality that compares all of their parts."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

SPARSE_LAYOUTS = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def quiet(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Call `make`, without torch's warnings that such tensors are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def _matrix() -> torch.Tensor:
    return torch.arange(24.0).reshape(4, 6) % 5 - 2


def per_tensor(dtype: torch.dtype) -> torch.Tensor:
    """A matrix that is quantized with one scale."""
    return quiet(lambda: torch.quantize_per_tensor(_matrix(), 0.1, 3, dtype))


def per_channel(dtype: torch.dtype, axis: int, *, floats: bool = False) -> torch.Tensor:
    """A matrix that is quantized with a scale for each index of a dimension."""
    count = _matrix().shape[axis]
    points = torch.arange(count) / 8 if floats else torch.arange(count)
    return quiet(lambda: torch.quantize_per_channel(_matrix(), torch.arange(count) / 7 + 0.1, points, axis, dtype))


def _coo(indices: list[list[int]], values: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.tensor(indices).reshape(len(indices), -1), values, shape)


MAKERS: dict[str, Callable[[], torch.Tensor]] = {
    "qint8": lambda: per_tensor(torch.qint8),
    "quint8": lambda: per_tensor(torch.quint8),
    "qint32": lambda: per_tensor(torch.qint32),
    "quint4x2": lambda: per_tensor(torch.quint4x2),
    "scalar": lambda: torch.quantize_per_tensor(torch.tensor(1.0), 0.5, 0, torch.qint8),
    "no element": lambda: torch.quantize_per_tensor(torch.zeros(0, 3), 0.5, 0, torch.qint8),
    "transposed": lambda: per_tensor(torch.qint8).t(),
    "a slice": lambda: per_tensor(torch.qint8)[1:3],
    "per channel 0": lambda: per_channel(torch.qint8, 0),
    "per channel 1": lambda: per_channel(torch.quint8, 1),
    "per channel qint32": lambda: per_channel(torch.qint32, 0),
    "float zero points": lambda: per_channel(torch.quint8, 1, floats=True),
    "per channel quint4x2": lambda: per_channel(torch.quint4x2, 0, floats=True),
    "per channel quint2x4": lambda: per_channel(torch.quint2x4, 0, floats=True),
    "odd rows of quint4x2": lambda: torch.quantize_per_tensor(torch.ones(3, 5), 0.5, 0, torch.quint4x2),
    "coo": lambda: _matrix().to_sparse(),
    "not coalesced": lambda: _coo([[0, 0], [1, 1]], torch.tensor([1.0, 2.0]), 2, 3),
    "out of order": lambda: _coo([[1, 0], [0, 1]], torch.tensor([1.0, 2.0]), 2, 3),
    "hybrid": lambda: _coo([[0, 2]], torch.ones(2, 3), 4, 3),
    "coo of no dimension": lambda: torch.sparse_coo_tensor(torch.empty((0, 1), dtype=torch.int64), [5.0], ()),
    "coo of nothing": lambda: torch.zeros(3, 4).to_sparse(),
    "coo of bfloat16": lambda: _matrix().bfloat16().to_sparse(),
    "coo of complex128": lambda: _matrix().to(torch.complex128).to_sparse(),
    "coo of bool": lambda: (_matrix() > 0).to_sparse(),
    "coo of float8": lambda: _coo([[0, 1]], torch.ones(2).to(torch.float8_e4m3fn), 3),
    "csr": lambda: _matrix().to_sparse_csr(),
    "csc": lambda: _matrix().to_sparse_csc(),
    "bsr": lambda: _matrix().to_sparse_bsr((2, 3)),
    "bsc": lambda: _matrix().to_sparse_bsc((2, 3)),
    "csr of nothing": lambda: torch.zeros(3, 4).to_sparse_csr(),
    "batches": lambda: torch.stack([_matrix(), _matrix()]).to_sparse_csr(),
    "hybrid csr": lambda: torch.arange(24.0).reshape(2, 3, 4).to_sparse_csr(dense_dim=1),
    "indices of int32": lambda: torch.sparse_csr_tensor(
        torch.tensor([0, 1, 1], dtype=torch.int32), torch.tensor([1], dtype=torch.int32), torch.ones(1), (2, 3)
    ),
    "a Parameter": lambda: torch.nn.Parameter(_matrix().to_sparse()),
    "a quantized Parameter": lambda: torch.nn.Parameter(per_channel(torch.qint8, 0), requires_grad=False),
}
"""A tensor of every kind, by what is special about it."""


def parts(tensor: torch.Tensor) -> list[object]:
    """Everything that defines the tensor, including the plain tensors that it consists of."""
    header: list[object] = [type(tensor), tensor.layout, tensor.dtype, tuple(tensor.shape), tensor.requires_grad]
    tensor = tensor.detach()
    if tensor.is_quantized:
        steps = [step for n, step in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]
        header += [tensor.qscheme(), steps, tensor.int_repr()]
        if tensor.qscheme() == torch.per_tensor_affine:
            return [*header, tensor.q_scale(), tensor.q_zero_point()]
        return [
            *header,
            tensor.q_per_channel_axis(),
            tensor.q_per_channel_scales(),
            tensor.q_per_channel_zero_points(),
        ]
    if tensor.layout == torch.sparse_coo:
        return [*header, tensor.is_coalesced(), tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [*header, tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [*header, tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [*header, tensor]


def _same_part(a: object, b: object) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return a == b
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    left, right = (part.clone(memory_format=torch.contiguous_format) for part in (a, b))
    return bytes(left.untyped_storage()) == bytes(right.untyped_storage())


def same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of any layout are equal in kind, in every part, and in bits."""
    left, right = quiet_parts(a), quiet_parts(b)
    return len(left) == len(right) and all(map(_same_part, left, right))


def quiet_parts(tensor: torch.Tensor) -> list[object]:
    """The parts, without torch's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return parts(tensor)
