"""How tensors are stored that HDF5 has no type or name for; the record says what they really are.

Integers, floats of 16 to 64 bits, bfloat16, E5M2, bools and complex numbers are stored as they are. E4M3 is not: unlike
IEEE floats, it has numbers at its highest exponent, and the HDF5 library would read 256 as infinity. E4M3 and other
types of one byte are stored as unsigned bytes of the same shape, quantized integers as integers, anything else as its
bytes.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.encodings import in_array
from ckptconv.core.report import Finding
from ckptconv.formats.hdf5.tree import MODEL
from ckptconv.formats.hdf5.writer.messages import MAX_RANK, has_datatype
from ckptconv.formats.targets.plan import is_text, names_are, other_types, replacement_name
from ckptconv.io.limits import MAX_DEPTH, MAX_HDF5_PATH

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.formats.targets.plan import Accepted


def stored_as(info: TensorInfo) -> TensorInfo:
    """The dtype and shape that a tensor is stored with; `info` itself if HDF5 has such datasets."""
    return in_array(info, _is_held, MAX_RANK)


def _is_held(dtype: DType) -> bool:
    return has_datatype(dtype) and dtype is not DType.F8_E4M3


def groups_of(name: str) -> Iterator[str]:
    """The paths of the groups around a dataset of this path, outermost first."""
    *parts, _ = name.split("/")
    return accumulate(parts, lambda path, part: f"{path}/{part}")


def path_of(name: str, checkpoint: Checkpoint) -> str:
    """The path of a tensor; in a whole model of legacy Keras, the weights are in a group of their own."""
    root = checkpoint.root
    is_legacy_model = type(root) is dict and type(root.get(MODEL[:-1])) is dict  # the group's attributes
    return MODEL + name if is_legacy_model and name in checkpoint else name


def acceptor(checkpoint: Checkpoint) -> Accepted:
    """What gives the path of a tensor's dataset, from the tensor's name."""
    names = checkpoint.all_tensors

    def accepted(name: str, taken: Container[str]) -> str:
        if is_accepted(name, names):
            return path_of(name, checkpoint)
        return replacement_name(name.replace("/", "|"), taken, most=MAX_HDF5_PATH // 4)

    return accepted


def is_accepted(name: str, names: Container[str]) -> bool:
    """Whether a dataset can have this path beside the others: none of its groups may be a dataset."""
    if not is_text(name, MAX_HDF5_PATH) or name.count("/") > MAX_DEPTH:
        return False
    if any(part in ("", ".") for part in name.split("/")):
        return False
    return not any(group in names for group in groups_of(name))


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """What h5py will see differently: types and names."""
    found, names = other_types(checkpoint, stored_as, "HDF5"), checkpoint.all_tensors
    if odd := [name for name in names if not is_accepted(name, names)]:
        message = f"HDF5 cannot have every name: {names_are(odd)} stored under another, which the record notes"
        found.append(Finding("name", "info", odd[0], message))
    return found
