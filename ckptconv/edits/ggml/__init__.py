"""ggml's block types: packed and unpacked, bit for bit as ggml does; and the types that a mixture gives to tensors.

unpack              blocks to floats
quantize            floats to blocks
q8  kquants         …for what the `gguf` package does slowly, or not at all: Q8_0, and types of superblocks
processes           …in several processes
mixtures            the type of each tensor in llama.cpp's mixtures, such as Q4_K_M
"""
