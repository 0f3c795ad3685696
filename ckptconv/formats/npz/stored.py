"""How tensors are stored that numpy has no type, shape or name for; the record says what they really are.

Types of one byte are stored as unsigned bytes, quantized integers as integers of the same width, half-precision complex
numbers as pairs of floats, anything else as bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.arrays import NUMPY_DESCR
from ckptconv.core.dtypes import DType
from ckptconv.core.encodings import in_array
from ckptconv.core.report import Finding
from ckptconv.formats.targets.plan import is_text, names_are, other_types, replacement_name
from ckptconv.formats.tensors.npy import RECORD, SUFFIX

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor, TensorInfo

MAX_NAME = 65_535 - len(SUFFIX)
"""In bytes; a zip archive stores the length of a name in 16 bits."""


def stored_as(info: TensorInfo) -> TensorInfo:
    """The dtype and shape that a tensor is stored with; `info` itself if numpy has such arrays."""
    return in_array(info, NUMPY_DESCR.__contains__)


def accepted(name: str, taken: Container[str]) -> str:
    """The name if an array in an archive can have it, else a similar one."""
    return name if is_accepted(name) else replacement_name(name, taken, most=MAX_NAME)


def is_accepted(name: str) -> bool:
    """Whether numpy.load finds an array of this name. For it, ``NAME.npy`` is another name of ``NAME``."""
    return is_text(name, MAX_NAME) and not name.endswith(SUFFIX)


def bf16_stored_as_v2(tensors: Mapping[str, LazyTensor]) -> list[Finding]:
    """A finding for BF16, which numpy saves without stating the type."""
    halves = [name for name, tensor in tensors.items() if tensor.info.dtype is DType.BF16]
    if not halves:
        return []
    message = f"numpy.load has no BF16: {names_are(halves)} given as V2, to be seen as .view(ml_dtypes.bfloat16)"
    return [Finding("stored-as", "info", halves[0], message, "BF16", "V2")]


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """What numpy.load will give differently: types and names."""
    found = other_types(checkpoint, stored_as, "numpy") + bf16_stored_as_v2(checkpoint.all_tensors)
    if odd := [name for name in checkpoint.all_tensors if not is_accepted(name)]:
        message = f"numpy.load cannot give every name: {names_are(odd)} stored under another, which {RECORD} notes"
        found.append(Finding("name", "info", odd[0], message))
    return found
