"""Reader of an HDF5 file: which of its tensors are the model's, and where all else it says stands in the metadata.

Tensors are named by their path, as h5py names them. In a whole model of legacy Keras (``model.save("x.h5")``), the
tensors of the group ``model_weights`` are the model's, under the names that a file of weights alone has; those of
``optimizer_weights``, and of ``optimizer`` in the files of Keras 3, are extras, and so is the state of metrics that
Keras 2.12 to 2.15 and tf_keras put into files of that layout. Attributes of the root group are metadata by their name;
those of another object are a dict under its path, and so are the values of datasets of text. Where an attribute of the
root is our record, it says what is the model's, and the attributes that others have changed since are metadata as they
are now.

Sources: keras/src/saving/saving_lib.py, keras/src/legacy/saving/legacy_h5_format.py, tf_keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import MetaNode, StateDict, TensorRef
from ckptconv.core.names import free_key
from ckptconv.core.notes import Notes
from ckptconv.errors import UnsupportedError
from ckptconv.formats.code.keras import findings_in, programs_in
from ckptconv.formats.hdf5.recorded import recorded
from ckptconv.formats.hdf5.superblock import Hdf5File
from ckptconv.formats.hdf5.tree import MODEL, Tree, walk

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from ckptconv.core.checkpoint import OpenFile
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.source import Source

_RECORD = '{"version":'
"""How our record starts."""

_OPTIMIZERS = ("optimizer_weights/", "optimizer/")
_METRICS = re.compile(r"metrics/[^/]+/vars/\d+")


def read(source: Source) -> Checkpoint:
    """Open the file: its headers, attributes and texts; no other element is read.

    Raises CorruptFileError, LimitError, and UnsupportedError for what is refused by name.
    """
    return checkpoint_of(walk(Hdf5File(source)), {}, "hdf5", source)


def checkpoint_of(tree: Tree, metadata: Mapping[str, MetaNode], format: str, source: OpenFile | None) -> Checkpoint:
    """What a tree holds, beside other `metadata`."""
    text = tree.attributes.get("", {}).get(records.KEY)
    if isinstance(text, str) and text.startswith(_RECORD):
        return recorded(tree, records.parse(text), metadata, format, source)
    model, extras = _split(tree.tensors)
    entries: dict[Hashable, MetaNode] = {}
    for key, value in (
        *metadata.items(),
        *tree.attributes.get("", {}).items(),
        *((path, attributes) for path, attributes in tree.attributes.items() if path),
        *tree.values.items(),
        *((name, TensorRef(name)) for name in extras),
    ):
        entries[free_key(key, entries)] = value  # an attribute may be called as a group is
    hole = StateDict(container="dict")
    root: MetaNode = {**entries, free_key("state_dict", entries): hole} if entries else StateDict()
    if not model and not extras and not tree.findings:
        raise UnsupportedError("the HDF5 file holds no arrays of numbers", hint="h5dump -n FILE shows what it holds")
    return Checkpoint(
        model, extras=extras, root=root, format=format, findings=(*tree.findings, *findings_in(entries)), file=source,
        notes=Notes(source=format, programs=tuple(programs_in(entries))),
    )  # fmt: skip


def _split(tensors: dict[str, LazyTensor]) -> tuple[dict[str, LazyTensor], dict[str, LazyTensor]]:
    """The model's tensors, and the others, by the names that they get."""
    extras = {
        name: tensor for name, tensor in tensors.items() if name.startswith(_OPTIMIZERS) or _METRICS.fullmatch(name)
    }
    model = {name: tensor for name, tensor in tensors.items() if name not in extras}
    if not model:
        return tensors, {}
    inner = {name.removeprefix(MODEL): tensor for name, tensor in model.items() if name.startswith(MODEL)}
    if inner and not inner.keys() & tensors.keys():
        return inner, {name: tensor for name, tensor in tensors.items() if not name.startswith(MODEL)}
    return model, extras
