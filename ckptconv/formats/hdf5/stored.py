"""Tensors that HDF5 has no type or no name for: stored as what it has, and in the record what they are.

Integers, floats of 16 to 64 bits, bfloat16, E5M2, bools and complex numbers are themselves. E4M3 has other values than
the IEEE's at its end, which the HDF5 library does not know: it would read 256 as infinity. That and what else takes one
byte keeps its shape, as unsigned bytes; quantized integers are integers; anything else is its bytes.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.encodings import in_array
from ckptconv.core.report import Finding
from ckptconv.formats.hdf5.messages import MOST_RANK, has_datatype
from ckptconv.formats.hdf5.tree import MODEL
from ckptconv.formats.targets.plan import is_text, many, other_types, replacement_name
from ckptconv.io.limits import MAX_DEPTH, MAX_HDF5_PATH

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.formats.targets.plan import Accepted


def stored_as(info: TensorInfo) -> TensorInfo:
    """The header under which a tensor is stored; `info` itself where HDF5 has such datasets."""
    return in_array(info, _is_held, MOST_RANK)


def _is_held(dtype: DType) -> bool:
    return has_datatype(dtype) and dtype is not DType.F8_E4M3


def groups_of(name: str) -> Iterator[str]:
    """The paths of the groups that a dataset of that path is in, outermost first."""
    *parts, _ = name.split("/")
    return accumulate(parts, lambda path, part: f"{path}/{part}")


def path_of(name: str, checkpoint: Checkpoint) -> str:
    """The path of a tensor. A whole model of legacy Keras' has its weights in a group of their own, with attributes."""
    root = checkpoint.root
    is_inside = name in checkpoint and type(root) is dict and type(root.get(MODEL[:-1])) is dict
    return MODEL + name if is_inside else name


def acceptor(checkpoint: Checkpoint) -> Accepted:
    """What the dataset of a tensor is called, by its name."""
    names = checkpoint.all_tensors

    def accepted(name: str, taken: Container[str]) -> str:
        if is_accepted(name, names):
            return path_of(name, checkpoint)
        return replacement_name(name.replace("/", "|"), taken, most=MAX_HDF5_PATH // 4)

    return accepted


def is_accepted(name: str, names: Container[str]) -> bool:
    """Whether a dataset can have that path beside the others: none of its groups is a dataset."""
    if not is_text(name, MAX_HDF5_PATH) or name.count("/") > MAX_DEPTH:
        return False
    return all(part not in ("", ".") for part in name.split("/")) and not any(one in names for one in groups_of(name))


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """What h5py will not see as it is."""
    found, names = other_types(checkpoint, stored_as, "HDF5"), checkpoint.all_tensors
    if odd := [name for name in names if not is_accepted(name, names)]:
        message = f"HDF5 cannot have every name: {many(odd)} stored under another, which the record notes"
        found.append(Finding("name", "info", odd[0], message))
    return found
