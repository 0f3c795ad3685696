"""Pickles in HDF5 files: what tianshou (`ReplayBuffer.save_hdf5`) could not store as an array.

    attribute ``__data_type__`` of a dataset    "ndarray" or "Tensor": an array
                                                any other class: the bytes of a pickle, which loading unpickles

They become bytes, which `inspect` follows as it does all files that a checkpoint holds as bytes.

Source: tianshou/data/utils/converter.py (`to_hdf5`, `from_hdf5`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.io.limits import MAX_INFLATED_RECORD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.hdf5.tree import Tree

_TYPE = "__data_type__"
_ARRAYS = ("ndarray", "Tensor")
_PROTO = b"\x80"
MOST = MAX_INFLATED_RECORD
"""The bytes of all pickles of a file that are read; a small file may claim many times as much."""


def take_pickles(tree: Tree) -> list[Program]:
    """Turn such datasets into bytes, in `tree.values`. Reads them.

    Returns a program for each that cannot be followed: beyond `MOST`, or if it does not begin as `pickle.dumps` does.
    """
    unfollowed = []
    left = MOST
    for path in list(_pickles(tree)):
        tensor = tree.tensors.get(path)
        left -= tensor.info.nbytes if tensor is not None else 0
        if left < 0:
            unfollowed.append(Program(path, Opaque("pickle.loads", "called"), "tianshou"))
            continue
        value = bytes(tensor.read()) if tensor is not None else tree.values[path]
        tree.tensors.pop(path, None)
        tree.values[path] = value
        if not isinstance(value, bytes) or not value.startswith(_PROTO):
            unfollowed.append(Program(path, Opaque("pickle.loads", "called", (value,)), "tianshou"))
    return unfollowed


def _pickles(tree: Tree) -> Iterator[str]:
    """The paths of the datasets that are unpickled."""
    for path, attributes in tree.attributes.items():
        if (path in tree.tensors or path in tree.values) and attributes.get(_TYPE, _ARRAYS[0]) not in _ARRAYS:
            yield path
