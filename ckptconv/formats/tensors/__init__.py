"""Tensors as files describe them, held against what can be.

headers       a tensor's type and shape
shared_bytes  tensors that share bytes of their files
texts         arrays of texts, which become metadata
"""
