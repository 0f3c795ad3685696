"""JAX's trees of arrays: Flax's msgpack, and Orbax's folders.

msgpack  arrays  packed             a file, walked over; arrays in it; elements under 8 bits
read  tree                          what becomes of it
nesting  growing                    names, and a checkpoint's metadata, as such a tree
stored  packing  write              what is stored as something else; the bytes; the writer
orbax                               Orbax's folders
thinc                               the files in models of spaCy's, which are msgpack as well
"""

from ckptconv.core.dtypes import DTYPES
from ckptconv.formats.base import Format, Holds

_MAPS = (*range(0x81, 0x90), 0xDE, 0xDF)
_EXTENSIONS = (0xC7, 0xC8, 0xC9, 0xD8)

FORMATS = (
    Format(
        name="flax",
        summary="flax.serialization's msgpack: flax_model.msgpack, a TrainState",
        suffixes=(".msgpack",),
        magic=tuple((0, bytes([head])) for head in (*_MAPS, *_EXTENSIONS)),
        claims="ckptconv.formats.flax.read:claims",
        dialect="flax",
        reader="ckptconv.formats.flax.read:read",
        writer="ckptconv.formats.flax.write:write",
        notices="ckptconv.formats.flax.stored:notices",
        holds=Holds(
            dtypes=tuple(DTYPES.values()), metadata="record", extras=True, ties=True, opaque=True, composites=True
        ),
    ),
    Format(
        name="orbax",
        summary="Orbax's folder, as JAX, Flax and MaxText save: a tree of arrays in OCDBT or zarr",
        suffixes=(),
        claims="ckptconv.formats.flax.orbax.read:claims",
        dialect="flax",
        reader="ckptconv.formats.flax.orbax.read:read",
        extra="orbax",
        takes=("folder",),
    ),
)
