"""Sets of files that are one checkpoint, whatever format each of them has.

Begin with `shards`, which says what an index is.

    shards          sets with an index, as the Hugging Face hub has them
    shard_names     …what their files are called
    split           …which tensor goes into which file, and writing them
    folder_file     …and which file of a folder is the index, or all of its checkpoint
    unindexed       such sets without their index
    numbered        sets of which the first file stands for all, as GGUF's
    modules_beside  models of which a folder has the first module's weights
    same_values     what several files have alike
"""
