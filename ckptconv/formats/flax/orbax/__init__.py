"""Orbax's checkpoints, which JAX, Flax and MaxText save: folders, read without any of these.

Begin with `read`, and with `places`, which says what lies where:

    read  places  item          a step or a checkpoint: _CHECKPOINT_METADATA; items in folders of their own, or one tree
    tree                        …of which _METADATA lists the entries
    store  ocdbt  node          its arrays: loose files, or keys and values in an OCDBT store
    arrays  zarr  documents     an array: zarr's, of version 2 or 3; the JSON that says so
    chunks  compressed  streams
                                …its chunks, compressed by zstd as a rule
    cursor  damage              numbers one after the other; errors of what contradicts itself

Refused by name: checkpoints that were never finished, T5X's own, and what `zarr` refuses. OCDBT has checksums of its
nodes, and zarr 3 of indexes, which are checked; those of zstd's frames too, where they have one.
"""
