"""What is done to tensors on their way, and files as what they were made of. No tensor is read for it.

Begin with `edits`, which says what can be asked for:

    edits                          what people ask for
    apply  state  rebuilt          doing it: the edits; tensors on their way; the checkpoint around them again
    lora                           adapters, opened to be merged
    dequantize  quantize  mixture  quantized weights, both ways; what mixtures of llama.cpp's ask of a model
    dialects                       other frameworks' names: whether ``--translate`` would have something to do
    originals                      `diff`, `verify`, `validate`: a GGUF as the model that it was made of, plain weights
"""
