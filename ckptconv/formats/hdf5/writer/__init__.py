"""The writer of HDF5 files and Keras' archives, without h5py.

Begin with `write`.

    write                 the writer
    stored  placing       stored names and types; groups, datasets and attributes
    drafting              where everything goes in the file
    messages  dense       …encoded messages; the links of large groups
    reference             a check of each written file by h5py
    archive               Keras' archive
"""
