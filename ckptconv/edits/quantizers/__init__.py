"""Plain weights as quantizers of the Hugging Face world store them: the other way of `ckptconv.edits.quantized`.

schemes: what each scheme stores, and what a configuration says of it; rules: how it computes that; coded: …while it is
read; linear: which tensors of a model are quantized.
"""
