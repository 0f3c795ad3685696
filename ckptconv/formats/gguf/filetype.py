"""``general.file_type``: of which type most of a model's matrices are, as llama.cpp numbers it.

Whoever changes the types has to change the number, and to say by which version of ggml's blocks they were quantized
(``general.quantization_version``). llama.cpp takes the number for the name of a model; where it is missing, it takes
the type that the most tensors have. Here those of one dimension do not count: a GPT-2 has more biases than matrices.

Source: llama.cpp's include/llama.h (`llama_ftype`), src/llama-model-loader.cpp; ggml's docs/gguf.md.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.core.dtypes import DType
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.ggml.mixtures import Mixture

ARCHITECTURE_KEY = "general.architecture"
FILE_TYPE_KEY = "general.file_type"
VERSION_KEY = "general.quantization_version"
QUANTIZATION_VERSION = 2
"""``GGML_QNT_VERSION``."""

FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15,
    "Q5_K": 17, "Q6_K": 18, "IQ2_XXS": 19, "IQ2_XS": 20, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26,
    "IQ2_S": 28, "IQ4_XS": 30, "IQ1_M": 31, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4": 38, "NVFP4": 39, "Q1_0": 40,
}  # fmt: skip
"""By type; of K-quants, which come in several mixtures, the one that llama.cpp guesses."""


def most(tensors: Iterable[LazyTensor]) -> DType | None:
    """The type that most of these have, those of one dimension left out where there are others; the first of equals."""
    infos = [tensor.info for tensor in tensors]
    counted = Counter(info.dtype for info in infos if len(info.shape) > 1) or Counter(info.dtype for info in infos)
    return max(counted, key=counted.__getitem__, default=None)


def told_types(
    root: MetaNode, before: Iterable[LazyTensor], after: Iterable[LazyTensor], mixture: Mixture | None = None
) -> MetaNode:
    """A GGUF's metadata once its tensors have other types, those of `mixture` if one was asked for: what it says of
    them says the truth, or is not said.
    """
    if not isinstance(root, dict):
        return root
    old, new = list(before), list(after)
    said: dict[str, int | None] = {}
    if mixture is not None and ARCHITECTURE_KEY in root:
        said[FILE_TYPE_KEY] = mixture.number
    elif FILE_TYPE_KEY in root and (kind := most(new)) is not most(old):
        said[FILE_TYPE_KEY] = FILE_TYPES.get(kind.name) if kind else None
    if ARCHITECTURE_KEY in root and _block_types(new) - _block_types(old):
        said[VERSION_KEY] = QUANTIZATION_VERSION
    if not said:
        return root
    changed = root.copy()
    for key, number in said.items():
        changed[key] = number
        if number is None:
            del changed[key]
    return changed


def _block_types(tensors: Iterable[LazyTensor]) -> set[DType]:
    """The types of those that are quantized."""
    return {tensor.info.dtype for tensor in tensors if tensor.info.dtype.block > 1}
