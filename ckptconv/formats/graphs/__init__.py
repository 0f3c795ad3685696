"""Shared by formats that store a graph: the weights are read, the graph stays behind.

names   names of tensors, made of the names of the functions, loops and layers around them
notes   facts and findings about the graph
"""
