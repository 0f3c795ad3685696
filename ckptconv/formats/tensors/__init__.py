"""Shared by readers: checks of the tensors that a file's header describes.

headers       a tensor's type and shape
npy           the header of numpy.save's file of an array
shared_bytes  a limit on tensors that share bytes of their file
texts         arrays of texts, which become metadata
"""
