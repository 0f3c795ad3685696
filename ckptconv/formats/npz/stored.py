"""Tensors that numpy has no type, no shape or no name for: stored as what it has, and in the record what they are.

One-byte types keep their shape, as unsigned bytes; quantized integers as integers of their width; half-precision
complex numbers are pairs of floats; anything else is its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.arrays import NUMPY_DESCR
from ckptconv.core.dtypes import DType
from ckptconv.core.encodings import in_array
from ckptconv.core.report import Finding
from ckptconv.formats.npz.layout import RECORD, SUFFIX
from ckptconv.formats.targets.plan import is_text, many, other_types, replacement_name

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor, TensorInfo

MAX_NAME = 65_535 - len(SUFFIX)
"""Bytes: a zip archive counts them in 16 bits."""


def stored_as(info: TensorInfo) -> TensorInfo:
    """The header under which a tensor is stored; `info` itself where numpy has such arrays."""
    return in_array(info, NUMPY_DESCR.__contains__)


def accepted(name: str, taken: Container[str]) -> str:
    """The name as an entry can have it: UTF-8 without NUL. ``NAME.npy`` is another name for ``NAME`` in numpy.load."""
    return name if is_accepted(name) else replacement_name(name, taken, most=MAX_NAME)


def is_accepted(name: str) -> bool:
    """Whether numpy.load finds an array of that name."""
    return is_text(name, MAX_NAME) and not name.endswith(SUFFIX)


def as_v2(tensors: Mapping[str, LazyTensor]) -> list[Finding]:
    """A word for the element type that numpy saves without saying so."""
    halves = [name for name, tensor in tensors.items() if tensor.info.dtype is DType.BF16]
    if not halves:
        return []
    message = f"numpy.load has no BF16: {many(halves)} given as V2, to be seen as .view(ml_dtypes.bfloat16)"
    return [Finding("stored-as", "info", halves[0], message, "BF16", "V2")]


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """What numpy.load will not see as it is."""
    found = other_types(checkpoint, stored_as, "numpy") + as_v2(checkpoint.all_tensors)
    if odd := [name for name in checkpoint.all_tensors if not is_accepted(name)]:
        message = f"numpy.load cannot give every name: {many(odd)} stored under another, which {RECORD} notes"
        found.append(Finding("name", "info", odd[0], message))
    return found
