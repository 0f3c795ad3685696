"""From what a pickle has built to a checkpoint: which tensors are the model's, where their bytes lie, what is told.

Begin with `roots`, which names the tensors, and with `assemble`, the last step of every reader.

    roots          the tree of the object: tensors by name, all the rest as metadata
    find  modules  …which of its tensors are the model's; those of whole modules
    refused_calls  …and whether one of these hangs on a call that is not made
    placing        tensors onto the bytes that they view
    composites     …and the parts of quantized and sparse ones
    names          which names of the pickle are no news
    assemble       all of it as a checkpoint
"""
