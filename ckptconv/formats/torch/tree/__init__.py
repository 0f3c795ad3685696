"""Turns the object that a pickle has built into a checkpoint: which tensors are the model's, and where their bytes are.

Begin with `build`, which names the tensors, and with `assemble`, the last step of every reader.

    build            the object as a tree: tensors by name, everything else as metadata
    find  modules    …which tensors are the model's; tensors in pickled modules
    wrapped          …tensors of the model that are inside of wrapped or packed ones
    refused_calls    …whether one of them depends on a call that is not made
    outside          …what is not in the tree: attributes of tensors, module versions, unused objects
    placing          the bytes that a tensor views
    composites       …and the parts of quantized and sparse tensors
    names            which names in the pickle need not be reported
    assemble         the checkpoint
"""
