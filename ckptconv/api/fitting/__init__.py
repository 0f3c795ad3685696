"""Which architecture a checkpoint is of, whether it fits, and what follows from that.

Begin with `compare`, which `validate` and `convert` share:

    resolve           the architecture that ``--arch`` means, or that the evidence names
    compare  causes   whether a checkpoint fits it, and what explains at once that it does not
    installed         a class that the library lacks, asked of transformers or diffusers
    program           one that has to fit, and what a network of it computes
    naming  matching  names that a graph lost, given back
"""
