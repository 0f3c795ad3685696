"""For ``--translate to-gguf``: a GGUF's metadata, from the files beside a transformers model's weights.

    config.json                                     hyperparameters
    tokenizer.model | tokenizer.json | vocab.txt    tokens, their scores and types, merges; T5 calls it spiece.model
    tokenizer_config.json  added_tokens.json  special_tokens_map.json  generation_config.json    special tokens
    chat_template.jinja | chat_template.json        chat templates

All of these files may come from strangers: nothing in them is run, and each number is checked. Begin with `model`.

    model  mmproj  adapter      the metadata of a language model, of a vision or audio tower, of a LoRA adapter
    entries                     for all three: overrides by the user, dtypes, the file type
    documents  config           the files, each read once; a config.json, whose values are checked as they are read
    hyperparameters  rope       hyperparameters that all architectures have; rotary embeddings
    sizes  layers               whether hyperparameters and tensors agree; whether all layers are complete
    architectures  shared       hyperparameters of single architectures; parts that several share
    encoder  mixtures           …BERT and T5; mixtures of experts
    recurrent  delta            …Mamba and others with a state; linear attention with a gated delta rule
    tower  vision  audio        hyperparameters of towers: shared parts, vision, audio
    tower_sizes                 whether those and the tensors agree
    tokenizer                   the tokenizer: finds which kind it is, and combines all parts
    vocabulary  special         its tokens; special tokens and chat templates
    bpe  pieces                 tokenizers with merges; unigrams and WordPiece
    sentencepiece  pre          SentencePiece's own file; how a text is split before merging
"""
