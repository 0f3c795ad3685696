"""JAX's trees of arrays: Flax's msgpack files, and Orbax's folders.

Begin with `arrays`, which describes Flax's files, then `read` and `write`.

    cursor  msgpack             MessagePack: the heads of objects; Python values
    arrays  packed              Flax's arrays in it; elements of fewer than 8 bits
    read  tree                  the reader; which tensors are the model's, and what is metadata
    write  packing              the writer; the bytes of a file
    nesting  metadata           the tree that is written: from names alone; from a metadata tree
    stored                      tensors that Flax has no type or name for
    orbax                       Orbax's folders
    thinc                       files inside the models of spaCy's pipelines, which are msgpack, too
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
