"""safetensors: a JSON header and the tensors' bytes.

Begin with `layout`.

    layout  encodings    the header; element types that it has no code for
    read  write          a single file
    sharded              shards with an index
    slices  slice_files  slices of tensors in several files; …reading one of these files alone
"""

from ckptconv.core.dtypes import DTYPES
from ckptconv.formats.base import Format, Holds

_HOLDS = Holds(dtypes=tuple(DTYPES.values()), metadata="record", extras=True, ties=True, opaque=True, composites=True)

FORMATS = (
    Format(
        name="safetensors",
        summary="safetensors, one file",
        suffixes=(".safetensors",),
        claims="ckptconv.formats.safetensors.layout:claims",
        reader="ckptconv.formats.safetensors.read:read",
        writer="ckptconv.formats.safetensors.write:write",
        holds=_HOLDS,
        sharded="safetensors-sharded",
    ),
    Format(
        name="safetensors-sharded",
        summary="safetensors, several files and their index",
        suffixes=(".safetensors.index.json",),
        magic=((0, b"{"),),
        claims="ckptconv.formats.safetensors.sharded:claims",
        reader="ckptconv.formats.safetensors.sharded:read",
        writer="ckptconv.formats.safetensors.sharded:write",
        layout="ckptconv.formats.safetensors.sharded:layout",
        holds=_HOLDS,
        takes=("file", "folder"),
        main="model.safetensors.index.json",
    ),
    Format(
        name="safetensors-slices",
        summary="a folder written by torch.distributed.checkpoint's HuggingFaceStorageWriter: slices in shard-… files",
        suffixes=(),
        claims="ckptconv.formats.safetensors.slices:claims",
        reader="ckptconv.formats.safetensors.slices:read",
        takes=("folder",),
    ),
)
