"""Dequantizing: turning weights that quantizers stored as several tensors into plain weights (``--dequantize``).

Begin with `dequantize`, which makes the edits, and with `schemes`, which says what each scheme stores.

    dequantize                   the edits
    find  config  packing        which tensors belong together; what a configuration says about them; MLX's packings
    comfy  marks                 ComfyUI's markers; endings of names by which `inspect` recognises quantized weights
    schemes  parts               a weight from its tensors; checking these
    integers  state  mlx  hqq    …from packed integers, and from bitsandbytes', MLX's and HQQ's tensors
    eager  eager_recurrent       torch's own quantized modules, whose weights are packed with their biases
    keras                        …from Keras', which `dialects.keras_quantized` finds
    torchao                      …from torchao's, by what files say of its classes: a room of its own
    blocks  lookups              …of any shape with scales in blocks; from tables, or from a mask
    matrix  elements             rectangles of a weight, computed while it is read; the elements of one tensor
"""
