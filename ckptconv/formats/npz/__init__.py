"""npz: numpy's zip archive of arrays."""

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
