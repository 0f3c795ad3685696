"""HDF5: files of weights by h5py and Keras, Keras' index of several, and its zip archive around one.

To read the code, begin with `tree` and `read`; for the writer, with `writer.write`.

    structures    what a file is made of: superblock, object headers, links, trees and heaps
    datasets      types, shapes, chunks and attributes: a dataset as a tensor
    tree  read    the walk from the root group; the checkpoint
    recorded      …of a file with our record
    pickled       …and the pickles in one by tianshou
    archive       Keras' archive
    sharded       Keras' weights in several files
    writer        writing both
"""

from ckptconv.core.dtypes import DTYPES
from ckptconv.formats.base import Format, Holds

_HOLDS = Holds(dtypes=tuple(DTYPES.values()), metadata="record", extras=True, ties=True, opaque=True, composites=True)

FORMATS = (
    Format(
        name="hdf5",
        summary="HDF5 files of arrays: Keras' .weights.h5 and .h5, tf_model.h5, h5py",
        suffixes=(".h5", ".hdf5"),
        magic=tuple((offset, b"\x89HDF\r\n\x1a\n") for offset in (0, *(512 << n for n in range(12)))),
        claims="ckptconv.formats.hdf5.structures.superblock:claims",
        dialect="keras",
        reader="ckptconv.formats.hdf5.read:read",
        writer="ckptconv.formats.hdf5.writer.write:write",
        notices="ckptconv.formats.hdf5.writer.stored:notices",
        holds=_HOLDS,
    ),
    Format(
        name="keras-sharded",
        summary="Keras' weights in several files: an index, and HDF5 files with parts of them",
        suffixes=(".weights.json",),
        magic=((0, b"{"),),
        claims="ckptconv.formats.hdf5.sharded:claims",
        dialect="keras",
        reader="ckptconv.formats.hdf5.sharded:read",
        takes=("file", "folder"),
        main="model.weights.json",
    ),
    Format(
        name="keras",
        summary="Keras' zip archive: an HDF5 file of weights, the configuration as JSON",
        suffixes=(".keras",),
        magic=((0, b"PK\x03\x04"),),
        claims="ckptconv.formats.hdf5.archive:claims",
        dialect="keras",
        reader="ckptconv.formats.hdf5.archive:read",
        writer="ckptconv.formats.hdf5.writer.archive:write",
        notices="ckptconv.formats.hdf5.writer.stored:notices",
        needs="ckptconv.formats.hdf5.writer.archive:lacking",
        instead=".weights.h5",
        holds=_HOLDS,
    ),
)
