"""numpy's files: an archive of arrays, one alone, and what Equinox writes of them.

layout  placed              the header of an array, which all have; as a tensor
read  write  stored         the archive; what is stored as something else
single                      one array
equinox                     arrays behind each other
entries  skops              arrays in a zip; an object of scikit-learn's, in JSON, with its arrays
"""

from ckptconv.core.arrays import NUMPY_DESCR
from ckptconv.core.dtypes import DTYPES
from ckptconv.formats.base import Format, Holds

FORMATS = (
    Format(
        name="npz",
        summary="numpy.savez's archive of arrays",
        suffixes=(".npz",),
        magic=((0, b"PK\3\4"), (0, b"PK\5\6")),
        claims="ckptconv.formats.npz.read:claims",
        reader="ckptconv.formats.npz.read:read",
        writer="ckptconv.formats.npz.write:write",
        notices="ckptconv.formats.npz.stored:notices",
        holds=Holds(
            dtypes=tuple(DTYPES.values()), metadata="record", extras=True, ties=True, opaque=True, composites=True
        ),
    ),
)

EQUINOX = Format(
    name="equinox",
    summary="equinox.tree_serialise_leaves' file: numpy arrays one after another, sometimes with JSON before them",
    suffixes=(".eqx",),
    claims="ckptconv.formats.npz.equinox:claims",
    reader="ckptconv.formats.npz.equinox:read",
)
"""Asked after other families, since a text may come first, and before a single array, as which it may start."""

SKOPS = Format(
    name="skops",
    summary="skops' zip archive of a scikit-learn model: the object as JSON, and its arrays",
    suffixes=(".skops",),
    magic=((0, b"PK\3\4"),),
    claims="ckptconv.formats.npz.skops.read:claims",
    reader="ckptconv.formats.npz.skops.read:read",
)

NPY = Format(
    name="npy",
    summary="numpy.save's file of one array",
    suffixes=(".npy",),
    magic=((0, b"\x93NUMPY"),),
    claims="ckptconv.formats.npz.single:claims",
    reader="ckptconv.formats.npz.single:read",
    writer="ckptconv.formats.npz.single:write",
    notices="ckptconv.formats.npz.single:notices",
    holds=Holds(dtypes=tuple(NUMPY_DESCR), single=True),
)
