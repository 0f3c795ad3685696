"""Batch norms that were folded into the layers before them, as exporters and inference engines do.

find     which ones were, by what it did to the values
free     which tensors none has taken yet
folded   the folded weight and bias, computed while they are read
"""
