"""Plain weights as quantizers of the Hugging Face world store them: the other way of `ckptconv.edits.quantized`.

schemes: how each scheme computes scales and codes, and what a configuration says of it; coded: both computed while they
are read; linear: which tensors of a model are quantized.
"""
