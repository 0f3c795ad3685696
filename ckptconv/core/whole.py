"""Puts a quantized or sparse tensor together again, as a torch tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core.composite import FLOAT_QPARAMS, VALUES, Quantized, Sparse, problem, roles
from ckptconv.core.indices import check_indices
from ckptconv.core.strided import contiguous_strides
from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from ckptconv.core.composite import Composite
    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor

TORCH_QUANTIZED = {"QI8": "qint8", "QU8": "quint8", "QI32": "qint32", "QU4": "quint4x2", "QU2": "quint2x4"}
"""The name of torch's dtype for each of our quantized types."""


def composite_to_torch(
    name: str, composite: Composite, tensors: Mapping[str, LazyTensor], device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Build the tensor `name` on `device`. Reads its parts, which are among `tensors`, and checks their values.

    Raises CorruptFileError, MissingExtraError.
    """
    if (wrong := problem(composite, {part: tensor.info for part, tensor in tensors.items()})) is not None:
        raise CorruptFileError(f"tensor {name!r}: {wrong}", hint="do not trust it")
    if isinstance(composite, Sparse):
        check_indices(name, composite, tensors)
    parts = {role: tensors[composite.parts[role]].to_torch() for role in roles(composite)}
    result = _quantized(composite, parts) if isinstance(composite, Quantized) else _sparse(composite, parts)
    return result.to(device)


def _quantized(composite: Quantized, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Build a quantized tensor as torch's own `_rebuild_qtensor` does: an empty one that is set on the integers."""
    import torch

    dtype = _quantized_dtype(composite.dtype)
    result: torch.Tensor
    if composite.axis is None:
        scale, zero_point = parts["scale"].item(), parts["zero_point"].item()
        result = torch._empty_affine_quantized(composite.shape, scale=scale, zero_point=int(zero_point), dtype=dtype)
    else:
        points = parts["zero_point"].float() if composite.scheme == FLOAT_QPARAMS else parts["zero_point"]
        result = torch._empty_per_channel_affine_quantized(
            composite.shape, scales=parts["scale"], zero_points=points, axis=composite.axis, dtype=dtype
        )
    storage = torch.storage.TypedStorage(  # type: ignore[no-untyped-call]
        wrap_storage=parts[VALUES].contiguous().untyped_storage(), dtype=dtype, _internal=True
    )
    return result.set_(storage, 0, composite.shape, contiguous_strides(composite.shape))


def _quantized_dtype(dtype: DType) -> Any:
    import torch

    return getattr(torch, TORCH_QUANTIZED[dtype.name])


def _sparse(composite: Sparse, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    import torch

    if composite.layout == "sparse_coo":
        return torch.sparse_coo_tensor(
            parts["indices"], parts[VALUES], composite.shape, check_invariants=False, is_coalesced=composite.coalesced
        )
    outer, inner, values = parts.values()
    layout = getattr(torch, composite.layout)
    return torch.sparse_compressed_tensor(outer, inner, values, composite.shape, layout=layout, check_invariants=False)
