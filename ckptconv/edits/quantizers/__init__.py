"""Quantizing: plain weights as quantizers store them (``--quantize``); `ckptconv.edits.quantized` is the other way.

Begin with `schemes`, which says what each scheme stores:

    schemes  configs         the schemes; what a configuration says about each
    linear  experts          which of a model's tensors are quantized; splitting stacked experts first
    coded  stored  nested    codes, and what is stored beside them, computed while they are read; quantized scales
    rules  integers  normal  how scales and codes are computed
"""
