"""Which architecture a checkpoint is of, and names that it gives back.

resolve           the one that ``--arch`` means, or that the evidence names
installed         a class that the library lacks, asked of transformers or diffusers
naming  matching  names that a graph lost
"""
