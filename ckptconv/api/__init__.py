"""What one may ask of checkpoints, a module for each question; `ckptconv` itself gives what is in them.

Results are data; nothing is printed. A `progress` callback is told the bytes done and the bytes in all. Importing this
package imports none of them: `inspect` does not wait for what only `verify` needs.

    open  inspect  convert  diff            the questions
    validate  verify  architectures
    request  stated                         what was asked about a network, and what a file says of its own
    inspecting                              `inspect`: what is not built, or run by others; what lies in the folder
    editing                                 edits, adapters, other names, quantized weights: for `convert`, and to read
                                            a file as what it was made of
    fitting                                 an architecture: which one, and names that a graph lost
    converting                              `convert`: what is to be written, where to, with whose consent
    running                                 `verify`: running each side, on what; comparing what came out
"""
