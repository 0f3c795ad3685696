"""How an HDF5 file stores objects, groups and names: the structures that lead to a dataset's header.

Begin with `superblock`, where a file starts, and `headers`, which every object has.

    superblock  cursor  checksum    the file, and reading at its addresses; numbers; checksums
    headers  links                  an object's header; the members of a group
    btree  heaps  fractal           the structures that hold members, names and values
"""
