"""HDF5: files of weights by h5py and Keras, and Keras' zip archive around one.

To read the code, begin with `superblock`, then `tree` and `read`; for the writer, with `write`.

Reading:

    superblock  cursor  checksum        the file, and reading at its addresses; numbers; checksums
    headers  links  attributes          an object's header; the members of a group; the values of attributes
    btree  heaps  fractal               the structures that hold members and values
    datatype  storage  dataset          a dataset's messages: type, shape, layout; the dataset as a tensor
    chunks  chunk_index  array_index    datasets in chunks, and the six indexes of chunks
    tree  read                          the walk from the root group; the checkpoint
    recorded                            …of a file with our record
    archive                             Keras' archive

Writing:

    write                               the writer
    stored  placing                     stored names and types; groups, datasets and attributes
    drafting  dense  messages           where everything goes; the links of large groups; encoded messages
    reference                           a check of each written file by h5py
    archive_write                       Keras' archive
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
