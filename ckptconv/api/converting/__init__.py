"""What only `convert` does.

Begin with `job`, which runs a conversion from start to end. The others, in the order in which it uses them:

    order  prepare            what was asked for, and what it makes of the source; no tensor is read
    outside                   …extras that are selected as the model
    gguf  ldm                 …what llama.cpp and the loaders of diffusion models' single files expect besides
    shapes                    …shapes that a diffusion model's GGUF records
    arch_note  graph  export  …the architecture that it must fit, as a note; the graph around the weights
    destination               where it is written
    companions  made_files    the files beside the weights that are copied; those that a GGUF's metadata gives
    consent                   refusing losses that were not agreed to
    plan  casts  verifier     a dry run's rows; what casting lost; ``--verify``
    job  conversion           running it; the result that is reported
"""
