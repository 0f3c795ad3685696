"""Tensors that are stored as another type, because a format has none such, and what the record says that they are.

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


_INTEGERS = {DType.QI32: DType.I32, DType.QI8: DType.I8, DType.QU8: DType.U8}
"""The integers that torch's quantized types are."""

NUMPY_RANK = 32
"""Dimensions that an array of numpy's before 2.0 may have."""


def encoded(info: TensorInfo) -> TensorInfo:
    """The header under which a tensor is stored where its type does not exist: pairs of floats, or bytes."""
    if info.dtype in COMPONENT:
        return TensorInfo(COMPONENT[info.dtype], (*info.shape, 2), info.nbytes)
    return TensorInfo(DType.U8, (info.nbytes,), info.nbytes)


def in_array(info: TensorInfo, is_held: Callable[[DType], bool], most_rank: int = NUMPY_RANK) -> TensorInfo:
    """The header under which a tensor is stored as an array, in a format that says which types it holds; `info` itself
    if it holds that type. Numbers of one byte keep their shape.
    """
    if len(info.shape) > most_rank:
        return TensorInfo(DType.U8, (info.nbytes,), info.nbytes)
    if is_held(info.dtype):
        return info
    if info.dtype in _INTEGERS:
        return TensorInfo(_INTEGERS[info.dtype], info.shape, info.nbytes)
    if info.dtype.bits == 8 and info.dtype.block == 1:
        return TensorInfo(DType.U8, info.shape, info.nbytes)
    return encoded(info)


def own_tensors(
    stored: Mapping[str, LazyTensor], record: Record, findings: list[Finding], stored_as: StoredAs = encoded
) -> dict[str, LazyTensor]:
    """All stored tensors as what the record says that they are, under their own names.

    stored_as: the header under which the format stores a tensor. Where that is not the one that is there, the tensor
               stays as it is, with a finding.
    """
    return {
        record.own_name(name): _decoded(name, tensor, record, findings, stored_as) for name, tensor in stored.items()
    }


def _decoded(
    stored: str, tensor: LazyTensor, record: Record, findings: list[Finding], stored_as: StoredAs
) -> LazyTensor:
    """The tensor as what the record says that it is, the same bytes; `stored` is its name in the file."""
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
    """The header that a record claims; the size of a plug-in's block type is that of what is stored."""
    if dtype.kind == "block" and dtype.block == 1:
        return TensorInfo(dtype, shape, stored.nbytes)
    return TensorInfo.of(dtype, shape)
