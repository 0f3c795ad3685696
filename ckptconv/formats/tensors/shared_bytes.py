"""A bound on tensors that share bytes of their files.

Where each tensor names the bytes that it has, two may name the same: a writer that stores equal ones once makes such
files. A small file may not make terabytes of itself all the same, under many names and shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.io.limits import FREE_SHARED_BYTES, MAX_SHARED_RATIO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.core.tensor import LazyTensor


def check_shared(tensors: Iterable[LazyTensor], size: int) -> None:
    """Raise LimitError where the tensors that lie in files of `size` bytes altogether come to far more; tied ones count
    once.
    """
    known = {tensor.alias: tensor.info.nbytes for tensor in tensors if tensor.span is not None}
    total, most = sum(known.values()), MAX_SHARED_RATIO * size + FREE_SHARED_BYTES
    if total > most:
        raise LimitError(f"its tensors share bytes: they come to {total:,}, of {size:,}, and the limit is {most:,}")
