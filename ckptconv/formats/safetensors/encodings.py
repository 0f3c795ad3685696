"""Element types that safetensors has no code for, stored as types that it has, and back.

Complex numbers other than C64 are stored as pairs of floats, with a last dimension of 2. Anything else (sub-byte
integers, quantised and block types) is stored as its bytes. The record says what a tensor really is.
"""

from __future__ import annotations

from ckptconv.core.dtypes import COMPONENT, DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.formats.safetensors.layout import DTYPE_BY_CODE


def stored_as(info: TensorInfo) -> TensorInfo:
    """The header under which a tensor is stored; `info` itself where the format has its type.

    A packed tensor whose elements do not fill its last byte is stored as bytes: the format has no padding.
    """
    if info.dtype.name in DTYPE_BY_CODE and info.numel * info.dtype.bits == info.nbytes * 8:
        return info
    if info.dtype in COMPONENT:
        return TensorInfo(COMPONENT[info.dtype], (*info.shape, 2), info.nbytes)
    return TensorInfo(DType.U8, (info.nbytes,), info.nbytes)


def can_decode(stored: TensorInfo, dtype: DType, shape: tuple[int, ...]) -> bool:
    """Whether `stored` is what a tensor of this type and shape would have been stored as."""
    nbytes = stored.nbytes if dtype.kind == "block" else TensorInfo.of(dtype, shape).nbytes
    return stored_as(TensorInfo(dtype, shape, nbytes)) == stored
