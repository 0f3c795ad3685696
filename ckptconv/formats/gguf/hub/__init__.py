"""What lies beside a model of the Hugging Face hub, as llama.cpp has it in a GGUF: hyperparameters and tokenizer.

    config.json                                     hyperparameters
    tokenizer.model | tokenizer.json | vocab.txt    tokens, their scores and types, merges; spiece.model of T5
    tokenizer_config.json  added_tokens.json  special_tokens_map.json  generation_config.json    special tokens
    chat_template.jinja | chat_template.json        chat templates

All of them are data from strangers: nothing in them is run, and each number is checked.
"""
