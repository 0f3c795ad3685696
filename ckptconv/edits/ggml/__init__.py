"""ggml's blocks: unpacked, and made, bit for bit as ggml does it; which types of them a model gets.

unpack              blocks as floats
quantize            floats as blocks
q8  kquants         …what the `gguf` package is too slow for, or does not make: Q8_0, and types of superblocks
processes           …by several processes
mixtures            which type each tensor of a model gets in llama.cpp's mixtures, as Q4_K_M
"""
