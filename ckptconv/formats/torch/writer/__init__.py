"""Writing torch.save's archive without torch.

Begin with `write`.

    write     the archive
    storages  which storages the archive gets, and how each tensor views one
    emit      the metadata tree as a pickle
    spell     …and the tensors in it
    notices   findings about the file that is written
"""
