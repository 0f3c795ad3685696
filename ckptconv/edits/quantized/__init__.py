"""Weights that quantizers of the Hugging Face world and of runtimes stored as several tensors, as plain ones again.

Begin with `find`, which tells them by names, types and shapes, and with `schemes`, which says what each stores:

    find  config  packing        which tensors belong together; what a configuration says of them; MLX's bits and groups
    comfy  marks                 ComfyUI's markers; names by which `inspect` tells weights that are quantized
    schemes  parts               a weight of its tensors, which are checked
    integers  state  mlx  hqq    …of packed integers, bitsandbytes', MLX's, HQQ's
    torchao                      …torchao's, told by what files say of its classes: a room of its own
    blocks  lookups              …of any shape with scales in blocks; by tables, and at the places of a mask
    matrix  elements             rectangles of a weight, computed while it is read; the elements of one tensor
"""
