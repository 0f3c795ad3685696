"""From the object that a pickle has built to a checkpoint: which tensors are the model's, and where their bytes are.

Begin with `roots`, which names the tensors, and with `assemble`, the last step of every reader.

    roots          the object as a tree: tensors by name, everything else as metadata
    find  modules  …which tensors are the model's; tensors in pickled modules
    refused_calls  …whether one of them depends on a call that is not made
    placing        the bytes that a tensor views
    composites     …and the parts of quantized and sparse tensors
    names          which names in the pickle need not be reported
    assemble       the checkpoint
"""
