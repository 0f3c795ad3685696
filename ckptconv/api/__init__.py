"""The questions that can be asked about checkpoints, a module for each; `ckptconv` itself exports what they define.

Results are data; nothing is printed. A `progress` callback gets the bytes done and the bytes in all. Importing this
package imports none of its modules: `inspect` does not wait for what only `verify` needs.

    open  inspect  convert  diff            the questions
    validate  verify  architectures
    request  stated                         what was asked about a network, and what a file says about itself
    inspecting                              `inspect`: what is not built, or run by others; what lies in the folder
    editing                                 edits, adapters, other names, quantized weights: for `convert`, and to read
                                            a file as what it was made from
    fitting                                 an architecture: which one, and names that a graph lost
    converting                              `convert`: what is to be written, where to, with whose consent
    running                                 `verify`: running each side, on what inputs; comparing the outputs
"""
