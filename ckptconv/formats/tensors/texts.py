"""Arrays of texts among a file's tensors. They become metadata: nested lists of bytes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.metadata import MetaNode

MAX_TEXT_RANK = 16
"""The most dimensions that such an array may have; each becomes a level of lists."""


def nested_texts(texts: Sequence[bytes], shape: tuple[int, ...]) -> MetaNode:
    """Nest the texts of an array of this shape, which are in C order. There must be at least one."""
    if not shape:
        return texts[0]
    inner = prod(shape[1:])
    return [nested_texts(texts[i * inner : (i + 1) * inner], shape[1:]) for i in range(shape[0])]
