"""For ``--translate gguf``: the files of a transformers folder, from a GGUF's metadata.

It is `ckptconv.formats.gguf.hub` the other way round. Nothing in the metadata is trusted: each entry is checked as it
is read, and a configuration is written only if to-gguf makes the file's entries of it again. Begin with `files`.

    files                   all files, and what of the GGUF they say
    config  table           config.json; the names that it has for llama.cpp's entries (configs.toml)
    architectures  rope     …what is no mere name in it; rotary embeddings
    tokenizer  merges       tokenizer.json and tokenizer_config.json; the merges that scores stand for
    tokens  special         …its tokens; special tokens, chat templates
    pooling                 sentence-transformers' files, for an embedding model
    said                    what a file says, checked as it is read
"""
