"""Reader of a ``.keras`` archive: a zip with one HDF5 file of weights, and the model's configuration.

    metadata.json       the version of Keras, the date
    config.json         the model's configuration: classes of layers and their arguments
    model.weights.h5    the weights, an HDF5 file that is read in place; if compressed, it is inflated into a temporary
                        file
    assets/…            vocabularies and the like, for layers that have some

Keras stores entries uncompressed. The two JSON documents become metadata, and so do the assets, as bytes. Nothing in a
configuration is built: classes and lambdas stay names and text. Reading tensors checks the CRC-32 of the weights.

Source: keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.errors import COPY_AGAIN, CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats.hdf5.read import checkpoint_of
from ckptconv.formats.hdf5.structures.superblock import Hdf5File
from ckptconv.formats.hdf5.tree import walk
from ckptconv.io.limits import MAX_CONFIG, MAX_HDF5_TEXT
from ckptconv.io.window import Window
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """Open the archive. Reads its directory, documents and assets; of the weights what the format `hdf5` reads.

    Raises CorruptFileError, LimitError, and UnsupportedError for what is refused by name.
    """
    archive = ZipArchive.of(source)
    if WEIGHTS not in archive.entries:
        raise _missing_weights_error(archive)
    metadata: dict[str, MetaNode] = {}
    left = MAX_HDF5_TEXT
    for name in archive.entries:
        if name in (CONFIG, ABOUT):
            metadata[name] = _parse_json(name, archive.read(name, MAX_CONFIG))
        elif name.startswith(ASSETS) and not name.endswith("/"):
            metadata[name] = data = archive.read(name, left)
            left -= len(data)
        elif name != WEIGHTS and not name.endswith("/"):
            raise UnsupportedError(f"{name!r} in the archive is not part of a Keras model", hint="save the model again")
    weights = archive.span(WEIGHTS)
    tree = walk(Hdf5File(Window(weights.file, weights.offset, weights.length), weights))
    tree.tensors = _with_checksum(tree.tensors, replace(weights))
    return checkpoint_of(tree, metadata, "keras", source)


def _with_checksum(tensors: Mapping[str, LazyTensor], whole: ByteSpan) -> dict[str, LazyTensor]:
    """The tensors, made dependent on the checksum of the whole file of weights. Tied ones stay one object."""
    checked: dict[int, LazyTensor] = {}
    return {name: checked.setdefault(id(tensor), replace(tensor, depends=(whole,))) for name, tensor in tensors.items()}


def _missing_weights_error(archive: ZipArchive) -> CkptconvError:
    for name in _OTHER_WEIGHTS:
        if name in archive.entries:
            return UnsupportedError(
                f"the archive keeps its weights in {name!r}, which is not supported",
                hint="model.save it again as .keras",
            )
    return CorruptFileError(f"the archive has no {WEIGHTS!r}")


def _parse_json(name: str, text: bytes) -> MetaNode:
    document: MetaNode = strict_json.document(text, repr(name), hint=COPY_AGAIN)
    strict_json.check_depth(document, repr(name))
    return document
