"""What `inspect` looks at besides tensors: objects that are not built, calls, and the files beside a checkpoint.

Begin with `uses`, of a single file:

    uses           what a checkpoint has that is not built here, and what others would run of it
    within         the same of files that stand in its metadata as bytes
    beside         …of the other files in its folder or archive
    no_checkpoint  a folder or an archive without a checkpoint, or with several
"""
