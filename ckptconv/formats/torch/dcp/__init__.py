"""torch.distributed.checkpoint: a folder that several processes wrote, read and written without any.

    .metadata        a pickle of torch.distributed.checkpoint.metadata.Metadata:
        state_dict_metadata   flat name → TensorStorageMetadata(properties, size, chunks: [offsets, sizes]…),
                              or BytesStorageMetadata for a value that is not a tensor
        planner_data          flat name → its path in the nested state_dict: keys of dicts (str), places in lists (int)
        storage_data          MetadataIndex(flat name, offsets of the chunk) → (file, offset, length)
        storage_meta, version
        ckptconv              ours: the record (`ckptconv.core.record`), for what paths and plain dicts do not say
    __RANK_N.distcp  blobs one after the other: each a whole zip archive, as torch.save writes a chunk or a value

A tensor is one chunk, or as many as there were processes that held a part of it. Sharded ones are cut along any axes.

Sources: torch/distributed/checkpoint/ (metadata.py, filesystem.py, _traverse.py, default_planner.py).

Refused by name: blobs in transformed streams (compressed by an extension), layouts other than strided, folders with a
``.metadata`` for each rank.
"""

MAIN = ".metadata"

BESIDE = "meta.pt"
"""What Lightning puts beside it (lightning.fabric's strategies/fsdp.py): epoch, hyper_parameters, loops."""
