"""Plain data: dtypes, tensors that have not been read, metadata trees, findings. No file is touched here.

Begin with `tensor` and `checkpoint`: what every reader gives, and what every writer and every check takes.

    dtypes  arrays                      element types: our own names, and how numpy and torch spell them
    tensor  strided  device             a tensor that has not been read; how views lie; how it gets to torch and a GPU
    composite  indices  whole           tensors that are made of several: quantized, sparse
    encodings                           tensors that are stored as another type
    checkpoint                          tensors by name, and everything else that a file says
    metadata  spelling  notes           the metadata tree; the same as JSON; bookkeeping beside it
    record  recorded  record_edits      all of that in formats of strings: written, read, read after others' edits
    edit  report  progress              one change to tensors; one thing that was found; how far something has come
    text                                counts, lists, names and shapes in messages
    collisions  strict_json  strict_toml  what keys, JSON and TOML from strangers are held against
    names                               names that are free
    memory                              what the C library does with freed memory
"""
