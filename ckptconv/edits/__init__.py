"""Edits turn one set of tensors into another. This package makes edits, finds them, and reads and writes them.

A change is an `Edit` (`ckptconv.core.edit`). Begin with `apply`, which makes edits, and `explain`, which finds those
that turn one checkpoint into another.

What the user asks for:
    name_rule  select       naming rules and globs (``--rename``, ``--select``, …)
    rules                   files of edits (``--rules``)
    types                   element types (``--dtype``)
    translate  dialects     names and layouts of other frameworks (``--translate``)
    like                    the way back to another framework's file (``--like``)
    quantized               weights that quantizers stored as several tensors, read (``--dequantize``)
    quantizers              …and written (``--quantize``)
    parametrized            weights that a network computes of several tensors (``--remove-parametrizations``)
    adapters                LoRA and similar (``--lora``)

Making edits:
    expand  invert  apply   the tensors that an edit's patterns match; the edit that undoes it; carrying it out
    kinds                   what each kind of edit needs, and makes
    views  rearrange        tensors reshaped, transposed and sliced without being read
    joined                  tensors concatenated without being read
    ordered                 a mapping in which new names take the places of old ones
    cast  rounding          other element types, rounded while they are read
    functions               functions of elements, likewise
    scaled                  multiplied by factors, as for parametrizations and folded norms
    computed                the base of readers that compute, and what computing lost
    ggml                    ggml's blocks, packed and unpacked; mixtures of them, such as Q4_K_M
    gates                   the order of the gates of recurrent layers
    composites  tree        quantized and sparse tensors, and the metadata tree, after an edit

Finding edits:
    explain  explanation    the search, and its result
    progress                what the search has explained so far
    match  pairing          tensors that were renamed, transposed or reshaped
    content  kinship        tensors that are equal, or were before training, by a few of their values
    batch_norms             norms that were folded into the layers before them
    parts  stacked          tensors that were joined or split, stacked or unstacked
    stacks  heads           layers, and attention heads, in another order
    patterns  python        many changes as few patterns; an edit as a line of Python
"""
