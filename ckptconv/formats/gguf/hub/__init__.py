"""What lies beside a model of the Hugging Face hub, as llama.cpp has it in a GGUF: hyperparameters and tokenizer.

    config.json                                     hyperparameters
    tokenizer.model | tokenizer.json | vocab.txt    tokens, their scores and types, merges; spiece.model of T5
    tokenizer_config.json  added_tokens.json  special_tokens_map.json  generation_config.json    special tokens
    chat_template.jinja | chat_template.json        chat templates

All of them are data from strangers: nothing in them is run, and each number is checked. Begin with `model`.

    model  mmproj  adapter  entries     the whole file, those beside it, and what a person says of any
    documents  config                   the documents, read once; a configuration, checked as it is asked
    hyperparameters  sizes  whole  rope    what it says of every architecture
    architectures  shared  encoder      …of single ones, and what several have alike
    mixtures  states  delta
    tower  pictures  sounds  tower_sizes    …of towers
    tokenizer  vocabulary  special      the tokenizer: which it is, its tokens, those with a part to play
    bpe  pieces  sentencepiece  pre     …its kinds
"""
