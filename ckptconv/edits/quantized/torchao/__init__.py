"""Weights that torchao quantized: tensors of classes that wrap others, told by what a file says of these classes.

    marks     whether a file speaks of torchao at all
    wrapped   what a pickle says of such an object, or the strings of a safetensors file
    classes   which of its tensors are which part, and what its class and attributes say besides
    stated    both, noted of a checkpoint; and what is no longer said once the weights are plain
    weights   a weight of its parts
    layouts   values and scales in orders of their own

Sources: torchao 0.5 to 0.18, quantization/quantize_/workflows, quantization/quant_primitives.py, prototype/mx_formats,
prototype/safetensors, dtypes; torch, ATen/native/cuda/int4mm.cu (`matrix_to_m16n8k16_Bint4_layout`).
"""
