"""The public functions, a module for each; `ckptconv` itself exports them.

Begin with `open`, then `inspect` or `convert`. Results are data; nothing is printed. A `progress` callback gets the
bytes done and the bytes in all. Importing this package imports none of its modules, so that `inspect` does not wait for
what only `verify` needs.

    open  inspect  convert  diff            the public functions
    validate  verify  architectures
    request                                 what a call asks for, and the command lines that hints show
    evidence                                what a file, and a config.json beside it, say about its architecture
    inspecting                              for `inspect`: what loading a file, or its folder, would run
    editing                                 edits, adapters, dialects of names, quantized weights: for `convert`, and
                                            to read a file as what it was made from
    fitting                                 which architecture a file has, whether it fits, names that a graph lost
    converting                              for `convert`: what is written, where, and which losses were agreed to
    running                                 for `verify`: running each side, making inputs, comparing the outputs
"""
