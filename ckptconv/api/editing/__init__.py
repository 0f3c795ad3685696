"""Edits a checkpoint's tensors lazily: nothing here reads a tensor.

Begin with `edits`, which says what can be asked for:

    edits                          what a user asks for
    apply  state  rebuild          applying it: all edits; the tensors between edits; the checkpoint around the result
    step_files                     the files that steps name, open until a conversion is done
    lora  like                     …adapters to merge; files whose names and layouts are to be had
    dequantize  quantize  mixture  quantized weights, both ways; the facts that llama.cpp's type mixtures depend on
    dialects                       other frameworks' names: whether ``--translate`` would have something to do
    originals                      for `verify` and `validate`: another framework's model under torch's names, and
                                   quantized weights as plain ones
    pairs                          for `diff`: two checkpoints in the form in which they can be compared
"""
