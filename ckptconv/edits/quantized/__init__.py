"""Weights that quantizers of the Hugging Face world and of runtimes stored as several tensors, as plain ones again.

matrix: rectangles of a weight, computed from the tensors that it is stored as; schemes: what each scheme stores, and
how it is checked; find: which tensors of a checkpoint belong together, by their names, types and shapes and by the
configuration beside them, or by what a graph says.
"""
