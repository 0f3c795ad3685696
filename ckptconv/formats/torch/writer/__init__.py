"""The writer of torch.save's archive, without torch.

Begin with `write`.

    write     the archive
    storages  which storages it gets, and how each tensor views one
    emit      the metadata tree as a pickle
    spell     …and the tensors in it
    notices   what a person should know of what is written
"""
