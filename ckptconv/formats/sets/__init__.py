"""Checkpoints in several files, for any format of the files.

Begin with `shards`, which says what an index is.

    shards          sets with an index, as on the Hugging Face hub: reading and checking the index
    shard_names     …the names of their files
    split           …which tensor goes into which file, and writing the set
    folder_file     …which file of a folder is the index, or the whole checkpoint
    copies          …the same weights for other frameworks, under the names that these have on the hub
    unindexed       …sets that have lost their index
    numbered        sets without an index, represented by their first file, as GGUF has them
    modules_beside  folders of sentence-transformers, which have more modules in subfolders
    same_values     values that must be equal in several files
"""
