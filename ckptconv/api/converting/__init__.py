"""What `convert` alone does.

Begin with `job`, which does all of it; the order is that in which things are done:

    order  prepare           what was asked for, and what it makes of the source; no tensor is read
    outside                  …extras that are taken as the model
    gguf  ldm                …what llama.cpp and loaders of single files of diffusion models want besides
    shapes                   …shapes that a GGUF of such a model says
    noted  graph  export     …an architecture that it must fit, as a note; the graph around the weights
    destination  companions  where to; the files beside the weights that go along
    consent                  losses that were agreed to
    plan  casts  verified    what becomes of each tensor; what casting lost; ``--verify``
    job  conversion          carrying it out; what it is said to have done
"""
