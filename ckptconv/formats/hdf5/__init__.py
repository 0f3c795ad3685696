"""HDF5: h5py's and Keras' files of weights, and Keras' archive around one.

From the bytes to the tensors:

    superblock  cursor  checksum        the file, its numbers, its checksums
    headers  links  attributes          what an object says of itself, a group's members, values of attributes
    btree  heaps  fractal               where members and values are kept
    datatype  storage  dataset          a dataset: its elements, its messages, the tensor that it is
    chunks  chunk_index  array_index    …in chunks, and the six ways to say where they lie
    tree  read                          the walk from the root, and what becomes of it
    recorded                            …where our record says that
    archive                             Keras' archive

From the tensors to the bytes:

    write                               the writer
    stored  placing                     names and types; which groups, datasets and attributes there will be
    drafting  dense  messages           where all of them lie, also the links of a large group; what their headers say
    reference                           h5py, which has to open the file
    archive_write                       Keras' archive around it
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
        claims="ckptconv.formats.hdf5.superblock:claims",
        dialect="keras",
        reader="ckptconv.formats.hdf5.read:read",
        writer="ckptconv.formats.hdf5.write:write",
        notices="ckptconv.formats.hdf5.stored:notices",
        holds=_HOLDS,
    ),
    Format(
        name="keras",
        summary="Keras' zip archive: an HDF5 file of weights, the configuration as JSON",
        suffixes=(".keras",),
        magic=((0, b"PK\x03\x04"),),
        claims="ckptconv.formats.hdf5.archive:claims",
        dialect="keras",
        reader="ckptconv.formats.hdf5.archive:read",
        writer="ckptconv.formats.hdf5.archive_write:write",
        notices="ckptconv.formats.hdf5.stored:notices",
        needs="ckptconv.formats.hdf5.archive_write:lacking",
        instead=".weights.h5",
        holds=_HOLDS,
    ),
)
