"""Tensors that Flax has no type or no name for: stored as what it has, and in the record what they are.

Every element type of numpy's and ml_dtypes' is itself, those under 8 bits with a byte for each element. Half-precision
complex numbers are pairs of floats, quantized integers integers; anything else is its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.arrays import NUMPY_NAMES
from ckptconv.core.encodings import in_array
from ckptconv.core.report import Finding
from ckptconv.core.spelling import is_utf8
from ckptconv.formats.flax.nesting import RESERVED
from ckptconv.formats.targets.plan import many, other_types, replacement_name

if TYPE_CHECKING:
    from collections.abc import Container

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import TensorInfo

NAMES = {dtype: name.rpartition(".")[2] for dtype, name in NUMPY_NAMES.items()}
"""What numpy calls an element type, as it stands in a file."""

_MOST = 4096


def stored_as(info: TensorInfo) -> TensorInfo:
    """The header under which a tensor is stored; `info` itself where Flax has such arrays."""
    return in_array(info, NAMES.__contains__)


def accepted(name: str, taken: Container[str]) -> str:
    """The name as a path of keys can have it: UTF-8, and none that means something else."""
    return name if is_accepted(name) else replacement_name(name, taken, most=_MOST)


def is_accepted(name: str) -> bool:
    """Whether a tree can have an array of that name."""
    return is_utf8(name) and name not in RESERVED


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """What Flax will not see as it is."""
    found = other_types(checkpoint, stored_as, "flax")
    if odd := [name for name in checkpoint.all_tensors if not is_accepted(name)]:
        message = f"flax cannot have every name: {many(odd)} stored under another, which the record notes"
        found.append(Finding("name", "info", odd[0], message))
    return found
