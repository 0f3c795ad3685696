"""Element types that safetensors has no code for are stored as types that it has.

The encoding is the same in all formats (`ckptconv.core.encodings`); this decides which types need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.encodings import encoded
from ckptconv.formats.safetensors.layout import DTYPE_BY_CODE

if TYPE_CHECKING:
    from ckptconv.core.tensor import TensorInfo


def stored_as(info: TensorInfo) -> TensorInfo:
    """The element type and shape under which a tensor is stored: `info` itself if the format has its type.

    A packed tensor whose elements do not fill its last byte is stored as bytes, because the format has no padding.
    """
    if info.dtype.name in DTYPE_BY_CODE and info.numel * info.dtype.bits == info.nbytes * 8:
        return info
    return encoded(info)
