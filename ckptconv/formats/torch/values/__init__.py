"""What of torch's and numpy's a pickle may build: data that says what stood there, none of which is theirs.

Begin with `construct`, the list of names that build something; a tensor becomes a stub (`stubs`), whose storage is not
looked for yet.

    construct     which names build what
    stubs         tensors and storages
    composites    quantized and sparse tensors
    dtensor       tensors that several processes hold together
    numpy_values  numpy's scalars, arrays and dtypes
"""
