"""``general.file_type``: the dtype that most of a model's matrices have, by llama.cpp's numbers.

If tensors change their dtypes, the number has to change with them, and ``general.quantization_version`` has to state
the version of ggml's blocks. llama.cpp derives the name of a model from the number; without it, from the dtype that
most tensors have. Tensors of one dimension don't count here: a GPT-2 has more biases than matrices.

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
"""The number for each dtype; of the K-quants, which come in several mixtures, the mixture that llama.cpp guesses."""


def most_common_dtype(tensors: Iterable[LazyTensor]) -> DType | None:
    """The dtype that most of the tensors have, and the first of several that are equally frequent.

    Tensors of one dimension count only if there are no others.
    """
    infos = [tensor.info for tensor in tensors]
    counted = Counter(info.dtype for info in infos if len(info.shape) > 1) or Counter(info.dtype for info in infos)
    return max(counted, key=counted.__getitem__, default=None)


def update_file_type(
    root: MetaNode, before: Iterable[LazyTensor], after: Iterable[LazyTensor], mixture: Mixture | None = None
) -> MetaNode:
    """A GGUF's metadata after its tensors changed their dtypes: what it states about them is corrected, or removed.

    before, after: all tensors.
    mixture:       the mixture of dtypes that the user asked for, if any.
    """
    if not isinstance(root, dict):
        return root
    old, new = list(before), list(after)
    changes: dict[str, int | None] = {}
    if mixture is not None and ARCHITECTURE_KEY in root:
        changes[FILE_TYPE_KEY] = mixture.number
    elif FILE_TYPE_KEY in root and (dtype := most_common_dtype(new)) is not most_common_dtype(old):
        changes[FILE_TYPE_KEY] = FILE_TYPES.get(dtype.name) if dtype else None
    if ARCHITECTURE_KEY in root and _block_dtypes(new) - _block_dtypes(old):
        changes[VERSION_KEY] = QUANTIZATION_VERSION
    if not changes:
        return root
    changed = root.copy()
    for key, number in changes.items():
        if number is None:
            del changed[key]
        else:
            changed[key] = number
    return changed


def _block_dtypes(tensors: Iterable[LazyTensor]) -> set[DType]:
    """The dtypes of quantized tensors."""
    return {tensor.info.dtype for tensor in tensors if tensor.info.dtype.block > 1}
