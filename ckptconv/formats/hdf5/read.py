"""Reader of an HDF5 file: which tensors are the model's, and how everything else becomes metadata.

Tensors are named by their path, as in h5py. In a whole model of legacy Keras (``model.save("x.h5")``), the tensors in
the group ``model_weights`` are the model's, with the names that they have in a file of weights alone. Extras are those
in ``optimizer_weights``, in ``optimizer`` in files of Keras 3, and the state of metrics, which Keras 2.12 to 2.15 and
tf_keras write into such files. Attributes of the root group are metadata under their names; those of another object are
a dict under its path. The values of datasets of text are under their paths as well. If an attribute of the root is our
record, that says what is the model's; attributes that other tools changed since have their new values.

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
from ckptconv.core.report import Finding
from ckptconv.errors import UnsupportedError
from ckptconv.formats.code.keras import findings_in, programs_in
from ckptconv.formats.hdf5.pickled import take_pickles
from ckptconv.formats.hdf5.recorded import checkpoint_from_record
from ckptconv.formats.hdf5.structures.superblock import Hdf5File
from ckptconv.formats.hdf5.tree import MODEL, Tree, walk

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from pathlib import Path

    from ckptconv.core.checkpoint import OpenFile
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.source import Source

_RECORD = '{"version":'
"""The start of our record."""

_OPTIMIZERS = ("optimizer_weights/", "optimizer/")
_SHARD = re.compile(r"(.+)_\d{5}\.weights\.h5")
_METRICS = re.compile(r"metrics/[^/]+/vars/\d+")


def read(source: Source) -> Checkpoint:
    """Open the file. Reads headers, attributes, texts and pickles, but no other elements.

    Raises CorruptFileError, LimitError, and UnsupportedError for what is refused by name.
    """
    tree = walk(Hdf5File(source))
    tree.findings += _lone_shard_findings(source.path)
    return checkpoint_of(tree, {}, "hdf5", source)


def _lone_shard_findings(path: Path) -> list[Finding]:
    """A warning if this is one of several files by Keras (`sharded`), whose index lies beside it."""
    shard = _SHARD.fullmatch(path.name)
    if shard is None or not (index := path.with_name(f"{shard[1]}.weights.json")).is_file():
        return []
    message = f"by its name this has only a part of the weights: {index.name!r} is the whole"
    return [Finding("shard", "warning", path.name, message)]


def checkpoint_of(tree: Tree, metadata: Mapping[str, MetaNode], format: str, source: OpenFile | None) -> Checkpoint:
    """The checkpoint that a tree forms; `metadata` is what is stated outside the HDF5 file."""
    text = tree.attributes.get("", {}).get(records.KEY)
    if isinstance(text, str) and text.startswith(_RECORD):
        return checkpoint_from_record(tree, records.parse(text), metadata, format, source)
    pickles = take_pickles(tree)
    model, extras = _split(tree.tensors)
    entries: dict[Hashable, MetaNode] = {}
    for key, value in (
        *metadata.items(),
        *tree.attributes.get("", {}).items(),
        *((path, attributes) for path, attributes in tree.attributes.items() if path),
        *tree.values.items(),
        *((name, TensorRef(name)) for name in extras),
    ):
        entries[free_key(key, entries)] = value  # an attribute and a group may have the same name
    root: MetaNode = StateDict()
    if entries:
        root = {**entries, free_key("state_dict", entries): StateDict(container="dict")}
    if not model and not extras and not tree.findings:
        raise UnsupportedError("the HDF5 file holds no arrays of numbers", hint="h5dump -n FILE shows what it holds")
    return Checkpoint(
        model, extras=extras, root=root, format=format, findings=(*tree.findings, *findings_in(entries)), file=source,
        notes=Notes(source=format, programs=(*programs_in(entries), *pickles)),
    )  # fmt: skip


def _split(tensors: dict[str, LazyTensor]) -> tuple[dict[str, LazyTensor], dict[str, LazyTensor]]:
    """The model's tensors, and the extras, under their final names."""
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
