"""torch.distributed.checkpoint: a folder that several processes wrote, read and written by a single one.

    .metadata        a pickle of torch.distributed.checkpoint.metadata.Metadata:
        state_dict_metadata   flat name → TensorStorageMetadata(properties, size, chunks: [offsets, sizes]…),
                              or BytesStorageMetadata for a value that is not a tensor
        planner_data          flat name → its path in the nested state_dict: dict keys (str), list indices (int)
        storage_data          MetadataIndex(flat name, offsets of the chunk) → (file, offset, length)
        storage_meta, version
        ckptconv              ours: the record (`ckptconv.core.record`), for what paths and plain dicts cannot express
    __RANK_N.distcp  blobs one after the other: each a whole zip archive, as torch.save writes a chunk or a value

A tensor has one chunk, or one for each process that held a part of it. Sharded tensors may be cut along any axes.

Sources: torch/distributed/checkpoint/ (metadata.py, filesystem.py, _traverse.py, default_planner.py).

Refused by name: blobs in transformed streams (compressed by an extension), layouts other than strided, folders with a
``.metadata`` for each rank.
"""

MAIN = ".metadata"

BESIDE = "meta.pt"
"""The file that Lightning adds (lightning.fabric's strategies/fsdp.py): epoch, hyper_parameters, loops."""
