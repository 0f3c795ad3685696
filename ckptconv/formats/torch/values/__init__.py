"""Our stand-ins for the torch and numpy objects that a pickle may build. They are data; neither library is used.

Begin with `construct`, the table of names that build something. A tensor becomes a stub (`stubs`), whose storage is
looked up later.

    construct     which names build what
    stubs         tensors and storages
    composites    quantized and sparse tensors
    dtensor       tensors that are distributed over several processes
    numpy_values  numpy's scalars, arrays and dtypes
    dill          what dill makes of its own
"""
