"""What an object's header says about a dataset or an attribute, and the values of both.

Begin with `dataset`, which makes a tensor of a header.

    datatype  storage               messages about types, shapes, layouts and filters
    attributes                      the values of attributes, and of datasets of text
    dataset                         a dataset as a tensor
    chunks                          …whose elements are in chunks, which may be compressed
    chunk_index  array_index        …where the chunks are: six kinds of index
"""
