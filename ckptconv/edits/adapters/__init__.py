"""Adapters: reading what their tensors are for, and merging them into a base model. Begin with `merge`.

What an adapter says:
    adapter                     an opened adapter, and whether it can be merged
    names                       tensor names of PEFT, kohya's scripts, LyCORIS and diffusers, as modules and roles
    config  patterns            PEFT's adapter_config.json: alpha, ranks, tokens; the modules that its patterns match
    mlx  llama_cpp              adapters of mlx-lm and llama.cpp, whose factors have other layouts
    inside                      adapters that were saved together with the model around them
    summary                     a description of an adapter, for `inspect`

Merging:
    merge                       the base with an adapter merged
    targets  sgm                the base's modules that an adapter changes
    translated                  …where the base has the names of another release
    kinds                       the kinds of adapters, and the tensor by which each is recognised
    build                       the changes that one module makes to a weight and its bias, with checked shapes
    factors  matrices           a module's tensors as matrices, read by blocks or held in memory
    products  shared            what is added to a weight: products of a module's own factors, or of common ones
    blockwise  blocks           …in blocks, or to single elements
    deltas                      …computed one rectangle at a time
    multiplied                  what a weight is multiplied by
    rotations  orthogonal       …rotations of blocks, and their orthogonal matrices
    merged                      the weight with all changes, computed while it is read

    to_llama_cpp                a PEFT adapter as one of llama.cpp's
"""
