"""Weights that a network computes of several tensors whenever it runs: pruned ones, and those of weight and spectral
norm.

    find      how a checkpoint stores them; the edits that make plain weights of them (``--remove-parametrizations``)
    weights   the plain weights, computed while they are read
"""
