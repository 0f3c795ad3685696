"""How tensors are stored that Flax has no type or name for; the record says what they really are.

Element types of numpy and ml_dtypes are stored as they are, those of fewer than 8 bits as a byte per element. Half-
precision complex numbers are stored as pairs of floats, quantized integers as integers, anything else as bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.arrays import NUMPY_NAMES
from ckptconv.core.encodings import in_array
from ckptconv.core.report import Finding
from ckptconv.core.spelling import is_utf8
from ckptconv.formats.flax.nesting import RESERVED
from ckptconv.formats.targets.plan import names_are, other_types, replacement_name

if TYPE_CHECKING:
    from collections.abc import Container

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import TensorInfo

NAMES = {dtype: name.rpartition(".")[2] for dtype, name in NUMPY_NAMES.items()}
"""numpy's name for a dtype, as in a file."""

_MAX_NAME = 4096


def stored_as(info: TensorInfo) -> TensorInfo:
    """The dtype and shape that a tensor is stored with; `info` itself if Flax has such arrays."""
    return in_array(info, NAMES.__contains__)


def accepted(name: str, taken: Container[str]) -> str:
    """The name if a path of keys can have it, else a similar one."""
    return name if is_accepted(name) else replacement_name(name, taken, most=_MAX_NAME)


def is_accepted(name: str) -> bool:
    """Whether a tree can have an array of this name: it has to be UTF-8, and not reserved."""
    return is_utf8(name) and name not in RESERVED


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """What Flax will see differently: types and names."""
    found = other_types(checkpoint, stored_as, "flax")
    if odd := [name for name in checkpoint.all_tensors if not is_accepted(name)]:
        message = f"flax cannot have every name: {names_are(odd)} stored under another, which the record notes"
        found.append(Finding("name", "info", odd[0], message))
    return found
