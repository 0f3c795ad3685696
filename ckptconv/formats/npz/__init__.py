"""Files of numpy arrays: numpy's own .npz and .npy, Equinox's .eqx, and skops' scikit-learn models.

Begin with `ckptconv.formats.tensors.npy`, which describes the header of an array, then `read` and `write`.

    tensors                 arrays as tensors
    read  write  stored     .npz; tensors that numpy has no type, shape or name for
    single                  .npy
    equinox                 .eqx: arrays one after another
    entries  skops          arrays in a zip archive; .skops: an object as JSON, and its arrays
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
"""Recognised after other families, since it may start with any text, and before .npy, since it may start like one."""

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
