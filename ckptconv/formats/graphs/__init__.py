"""What formats of graphs have alike: the weights are read, the graph stays behind.

names  names of its tensors, put together of those of what they lie in
notes  what is said of it
"""
