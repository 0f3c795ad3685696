"""Orbax's checkpoints, which JAX, Flax and MaxText save: folders, read without any of these.

    a step or a checkpoint     _CHECKPOINT_METADATA; items in folders of their own, or one tree (`places`)
    a tree                     _METADATA, the list of its entries (`tree`), and what is beside it (`item`)
    its arrays                 keys and values in an OCDBT store (`ocdbt`, `node`), or loose files (`store`)
    an array                   zarr's, of version 2 or 3 (`zarr`): a document, and chunks (`chunks`), compressed by zstd
                               as a rule (`compressed`, `streams`)

Refused by name: checkpoints that were never finished, T5X's own, and what `zarr` refuses. OCDBT has checksums of its
nodes, and zarr 3 of indexes, which are checked; those of zstd's frames too, where they have one.
"""
