"""A ``.keras`` archive: a zip with one HDF5 file of weights, and the model's configuration.

    metadata.json       the version of Keras, the date
    config.json         the model's configuration: classes of layers and their arguments
    model.weights.h5    the weights, an HDF5 file that is read where it lies; compressed, it is inflated into a
                        temporary file
    assets/…            vocabularies and the like, of layers that have any

Keras writes entries stored. The two documents are metadata, as JSON says them, and so are the assets, as bytes.
Nothing in a configuration is made: classes and lambdas are names and text. Tensors are checked against the CRC-32 of
the weights.

Source: keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.errors import COPY_AGAIN, CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats.hdf5.read import checkpoint_of
from ckptconv.formats.hdf5.superblock import Hdf5File
from ckptconv.formats.hdf5.tree import walk
from ckptconv.io.limits import MAX_CONFIG, MAX_HDF5_TEXT
from ckptconv.io.window import Window
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import ByteSpan, LazyTensor
    from ckptconv.io.source import Source

CONFIG, ABOUT, WEIGHTS, ASSETS = "config.json", "metadata.json", "model.weights.h5", "assets/"
_OTHER_WEIGHTS = ("model.weights.npz", "model.weights.json")


def claims(source: Source) -> bool:
    """Whether this is a zip archive with Keras' two documents."""
    try:
        entries = ZipArchive.of(source).entries
    except CkptconvError:
        return False
    return CONFIG in entries and ABOUT in entries


def read(source: Source) -> Checkpoint:
    """Open the archive: its directory, documents and assets, and the weights as the format `hdf5` does.

    Raises CorruptFileError, LimitError, and UnsupportedError for what is refused by name.
    """
    archive = ZipArchive.of(source)
    if WEIGHTS not in archive.entries:
        raise _without_weights(archive)
    metadata: dict[str, MetaNode] = {}
    left = MAX_HDF5_TEXT
    for name in archive.entries:
        if name in (CONFIG, ABOUT):
            metadata[name] = _document(name, archive.read(name, MAX_CONFIG))
        elif name.startswith(ASSETS) and not name.endswith("/"):
            metadata[name] = data = archive.read(name, left)
            left -= len(data)
        elif name != WEIGHTS and not name.endswith("/"):
            raise UnsupportedError(f"{name!r} in the archive is not part of a Keras model", hint="save the model again")
    weights = archive.span(WEIGHTS)
    tree = walk(Hdf5File(Window(weights.file, weights.offset, weights.length), weights))
    whole = replace(weights)
    known: dict[int, LazyTensor] = {}
    tree.tensors = {name: known.setdefault(id(one), _checked(one, whole)) for name, one in tree.tensors.items()}
    return checkpoint_of(tree, metadata, "keras", source)


def _checked(tensor: LazyTensor, whole: ByteSpan) -> LazyTensor:
    """The tensor, which depends on the checksum of all weights."""
    return replace(tensor, depends=(whole,))


def _without_weights(archive: ZipArchive) -> CkptconvError:
    for name in _OTHER_WEIGHTS:
        if name in archive.entries:
            return UnsupportedError(
                f"the archive keeps its weights in {name!r}, which is not supported",
                hint="model.save it again as .keras",
            )
    return CorruptFileError(f"the archive has no {WEIGHTS!r}")


def _document(name: str, text: bytes) -> MetaNode:
    document: MetaNode = strict_json.document(text, repr(name), hint=COPY_AGAIN)
    strict_json.check_depth(document, repr(name))
    return document
