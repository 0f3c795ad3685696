"""A limit on tensors that share bytes of their file.

In formats where each tensor states where its bytes are, two may state the same, and a writer that stores equal tensors
once makes such files. But a small file must not become terabytes by listing its bytes under many names and shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.io.limits import FREE_SHARED_BYTES, MAX_SHARED_RATIO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.core.tensor import LazyTensor


def check_shared(tensors: Iterable[LazyTensor], size: int) -> None:
    """Raise LimitError if the tensors have far more bytes than their files, which have `size`. Tied ones count once."""
    sizes = {tensor.alias: tensor.info.nbytes for tensor in tensors if tensor.span is not None}
    total, limit = sum(sizes.values()), MAX_SHARED_RATIO * size + FREE_SHARED_BYTES
    if total > limit:
        raise LimitError(f"its tensors share bytes: they come to {total:,}, of {size:,}, and the limit is {limit:,}")
