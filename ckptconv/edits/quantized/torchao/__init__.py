"""Weights that torchao quantized: tensors of classes that wrap others, as pickles and safetensors files describe them.

Begin with `classes`, which says what the weight of each class is.

    marks         whether a file mentions torchao at all
    wrapped       an object of such a class, read from a pickle or from the strings of a safetensors file
    classes       its parts: which tensors hold values, scales and zero points, and how they are laid out
    bookkeeping   these parts as notes of a checkpoint, and the metadata without them once the weights are plain
    weights       the weight, computed from its parts
    layouts       values and scales that are stored in unusual orders

Sources: torchao 0.5 to 0.18, quantization/quantize_/workflows, quantization/quant_primitives.py, prototype/mx_formats,
prototype/safetensors, dtypes; torch, ATen/native/cuda/int4mm.cu (`matrix_to_m16n8k16_Bint4_layout`).
"""
