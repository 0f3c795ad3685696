"""Plain weights as quantizers of the Hugging Face world store them: the other way of `ckptconv.edits.quantized`.

Begin with `schemes`, which says what each stores:

    schemes  configs         the table; what a configuration says of it
    linear  experts          which tensors of a model are quantized; experts that are taken apart before
    coded  stored  nested    codes, and what is stored beside them, while they are read; sizes that are quantized too
    rules  integers  normal  how that is computed
"""
