"""Arrays of texts that stand among a file's tensors and become metadata: lists of lists of bytes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.metadata import MetaNode

MAX_TEXT_RANK = 16
"""Dimensions of such an array, which becomes as many lists in each other."""


def nested_texts(texts: Sequence[bytes], shape: tuple[int, ...]) -> MetaNode:
    """The texts of an array of this shape in C order, of which there is one at least."""
    if not shape:
        return texts[0]
    inner = prod(shape[1:])
    return [nested_texts(texts[i * inner : (i + 1) * inner], shape[1:]) for i in range(shape[0])]
