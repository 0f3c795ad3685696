"""Tensors that are stored as another type because their format lacks theirs. The record keeps the true type.

Complex numbers are stored as pairs of floats, with a last dimension of 2. Anything else (sub-byte integers, quantized
and block types) is stored as its bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import COMPONENT, DTYPES, DType
from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.core.record import Record

    StoredAs = Callable[[TensorInfo], TensorInfo]


_CARRIER_TYPES = {DType.QI32: DType.I32, DType.QI8: DType.I8, DType.QU8: DType.U8}
"""The integer types that carry torch's quantized types."""

NUMPY_RANK = 32
"""The most dimensions of an array in numpy before 2.0."""


def encoded(info: TensorInfo) -> TensorInfo:
    """The header under which a tensor is stored in a format without its type: pairs of floats, or bytes."""
    if info.dtype in COMPONENT:
        return TensorInfo(COMPONENT[info.dtype], (*info.shape, 2), info.nbytes)
    return TensorInfo(DType.U8, (info.nbytes,), info.nbytes)


def in_array(info: TensorInfo, is_held: Callable[[DType], bool], most_rank: int = NUMPY_RANK) -> TensorInfo:
    """The header under which a tensor is stored as an array. Types of one byte keep their shape.

    is_held:   whether the format has a type; then the header stays as it is.
    most_rank: the most dimensions that the format's arrays may have.
    """
    if len(info.shape) > most_rank:
        return TensorInfo(DType.U8, (info.nbytes,), info.nbytes)
    if is_held(info.dtype):
        return info
    if info.dtype in _CARRIER_TYPES:
        return TensorInfo(_CARRIER_TYPES[info.dtype], info.shape, info.nbytes)
    if info.dtype.bits == 8 and info.dtype.block == 1:
        return TensorInfo(DType.U8, info.shape, info.nbytes)
    return encoded(info)


def own_tensors(
    stored: Mapping[str, LazyTensor], record: Record, findings: list[Finding], stored_as: StoredAs = encoded
) -> dict[str, LazyTensor]:
    """The stored tensors with the types that the record states, under their own names.

    stored_as: gives the header under which the format stores a tensor. If the stored header is another one, the tensor
               stays as it is, and `findings` gets a warning.
    """
    return {
        record.own_name(name): _decoded(name, tensor, record, findings, stored_as) for name, tensor in stored.items()
    }


def _decoded(
    stored: str, tensor: LazyTensor, record: Record, findings: list[Finding], stored_as: StoredAs
) -> LazyTensor:
    """The tensor with the type that the record states, and the same bytes. `stored` is its name in the file."""
    encoding = record.encodings.get(record.own_name(stored))
    if encoding is None:
        return tensor
    dtype = DTYPES.get(encoding.dtype)
    if dtype is None or stored_as(_claimed(tensor.info, dtype, encoding.shape)) != tensor.info:
        message = f"the record says {stored!r} is {encoding.dtype}, which its header contradicts; it is read as it lies"
        findings.append(Finding("encoding", "warning", stored, message, encoding.dtype, tensor.info.dtype.name))
        return tensor
    return replace(tensor, info=TensorInfo(dtype, encoding.shape, tensor.info.nbytes))


def _claimed(stored: TensorInfo, dtype: DType, shape: tuple[int, ...]) -> TensorInfo:
    """The header that a record claims. The size of a plug-in's block type is not known; the stored size is taken."""
    if dtype.kind == "block" and dtype.block == 1:
        return TensorInfo(dtype, shape, stored.nbytes)
    return TensorInfo.of(dtype, shape)
