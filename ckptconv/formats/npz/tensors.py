"""numpy arrays as tensors, once their headers are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.core.strided import contiguous_strides
from ckptconv.core.text import quoted
from ckptconv.io.gather import laid_out

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from ckptconv.core.tensor import ByteSpan, LazyTensor
    from ckptconv.formats.tensors.npy import Npy


def tensor_at(npy: Npy, span: ByteSpan, alias: Hashable) -> LazyTensor:
    """The tensor of an array whose elements are in `span`, which has the size that the header states."""
    strides = contiguous_strides(npy.info.shape[::-1])[::-1] if npy.fortran else None
    return laid_out(npy.info, span, alias, strides, swapped=npy.swapped)


def read_as_bf16(tensors: Mapping[str, LazyTensor]) -> list[Finding]:
    """A finding for elements whose type numpy does not state, which are read as BF16."""
    names = [name for name, tensor in tensors.items() if tensor.info.dtype is DType.BF16]
    if not names:
        return []
    message = f"{quoted(names, 1)}: elements of two bytes and no type (V2) are read as BF16, which JAX saves so"
    return [Finding("read-as", "info", names[0], message, "V2", "BF16")]
