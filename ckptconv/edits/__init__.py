"""What turns one set of tensors into another: making changes, finding out which were made, writing them down.

A change is an `Edit` (`ckptconv.core.edit`). Begin with `apply`, which makes them, and `explain`, which finds them.

    name_rule  select  rules  types     what people ask for: rules and patterns of names, files of edits, element types
    expand  invert  apply               which tensors an edit's patterns mean; the edits that undo it; making it
    kinds                               …what each kind of edit needs, and makes
    views  through  joined              tensors seen otherwise, none of them read: turned, cut, side by side
    cast  rounding  functions           values computed while they are read
    computed                            …and what that lost
    ggml                                ggml's blocks, unpacked and made; mixtures of them, as Q4_K_M
    gates                               the gates of recurrent layers
    composites  tree                    quantized and sparse tensors, and the metadata tree, after a change
    explain  explanation                what was done to one set to get another
    match  pairing  content  kinship    …by names; by a few numbers of each, which are equal, or were before training
    parts  stacked  stacks  heads       …tensors that became one or several, layers that moved, heads that did
    patterns  python                    many changes as few patterns; an edit as a line of Python
    translate  dialects                 names and layouts of other frameworks (``--translate``)
    quantized                           weights that quantizers stored as several tensors (``--dequantize``)
    quantizers                          …and the other way (``--quantize``)
    adapters                            LoRA and its kin (``--lora``)
"""
