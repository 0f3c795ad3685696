"""Plain data: dtypes, lazy tensors, metadata trees, findings. No file is touched here.

Begin with `tensor` and `checkpoint`: what every reader returns, and what every writer and every check takes.

    dtypes  arrays                      element types: our own names, and how numpy and torch spell them
    tensor  strided  device             lazy tensors; views with strides; loading into torch and onto a GPU
    composite  indices  whole           quantized and sparse tensors, which are made of several
    encodings                           tensors that are stored as another type
    checkpoint                          tensors by name, and everything else that a file says
    metadata  spelling  notes           the metadata tree; its spelling as JSON; bookkeeping beside it
    record  recorded  record_edits      both in formats of strings: written; read; read after edits by other tools
    edit  report  progress              a change to tensors; a finding of a check; the progress callback
    text                                counts, lists, names and shapes in messages
    collisions  strict_json  strict_toml  guards for keys, JSON and TOML from untrusted files
    names                               modules that names belong to, what two names share, names that are free
    memory                              what the C library does with freed memory
"""
