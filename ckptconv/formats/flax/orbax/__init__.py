"""Reader of Orbax's checkpoint folders, which JAX, Flax and MaxText save. Needs none of these packages.

Begin with `places`, which describes the folders, then `read`:

    places  read                which folders are what; the reader
    item  tree                  an item, which is a tree of arrays; its list of entries, _METADATA
    store  ocdbt  node          where arrays lie: loose files, or keys and values in an OCDBT store
    arrays  zarr  documents     arrays as tensors; their documents, of zarr 2 or 3; JSON
    chunks  streams             arrays in chunks; ranges of chunks
    compressed                  decompression in pieces, mostly of zstd
    cursor  damage              the numbers in a node; errors

Refused by name: unfinished checkpoints, T5X's own, and what `zarr` refuses. The checksums of OCDBT's nodes and of zarr
3's indexes are checked, and so are those of zstd's frames, if they have one.
"""
