"""What one may ask of checkpoints, a module for each question; `ckptconv` itself gives what is in them.

Results are data; nothing is printed. A `progress` callback is told the bytes done and the bytes in all. Importing this
package imports none of them: `inspect` does not wait for what only `verify` needs.

    open  inspect  convert  diff            the questions
    validate  verify  architectures
    uses  beside  no_checkpoint             `inspect`: what is not built, or run by others; what lies in the folder
    edits  lora                             what `convert` can be told to do on the way
    order  prepare                          `convert`, first half: what is to be written, no tensor read
    outside  editing                        …extras that are taken as the model; the edits
    dequantize  quantize  dialects          …quantized weights, both ways; other frameworks' names
    gguf  ldm  mixture                      …what llama.cpp and single files of diffusion models want besides
    shapes                                  …shapes that a GGUF of such a model says
    fitting  graph  export                  …an architecture that it must fit; the graph around the weights
    naming  matching                        …names that a graph lost
    destination  plan  companions           `convert`, second half: where to; what becomes of each tensor, and of files
    conversion                              …what it is said to have done
    consent  casts  verified                …losses that were agreed to; what casting lost; ``--verify``
    asked  stated  arch                     which architecture: what was asked, what the file says, what that means
    installed                               `validate`: a class that the library lacks, asked of transformers
    unconverted                             `diff`, `verify`, `validate`: a GGUF as the model that it was made of
    running  feeds  comparing  arrays       `verify`: running each side, on what; comparing what came out; .npz files
"""
