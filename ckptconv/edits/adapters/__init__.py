"""Adapters: what their tensors are for (`names`, `config`), and merging them into a base (`merge`).

Begin with `merge`:

    names                       tensors by module and role, as PEFT, kohya's scripts, LyCORIS and diffusers call them
    config                      what PEFT's adapter_config.json says: alpha, ranks, tokens
    mlx  llama_cpp              those of mlx-lm and llama.cpp, whose factors lie otherwise
    to_llama_cpp                …and one of PEFT's as one of llama.cpp's
    patterns                    which modules its patterns are for
    targets  sgm  translated    which of the base's modules those are, also where their names are another release's
    inside                      one that was saved with the model around it
    adapter  merge              all of one, opened, and what merging it made of a base
    kinds                       by which tensor each kind is known
    products  shared            …and what makes its changes: those that are added, of its own factors or of common ones
    blockwise  multiplied       …in blocks; those that multiply
    build                       a module: the changes of its weight and bias, checked against their shapes
    factors                     the tensors of a module, as matrices
    matrices                    matrices that are read by blocks, or held
    deltas  blocks              what is added, a rectangle at a time; what comes again
    rotations  orthogonal       what multiplies the weight; of which matrices
    merged                      the weight with its changes, computed while it is read
    summary                     what an adapter is, for people
"""
