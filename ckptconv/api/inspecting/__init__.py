"""What `inspect` reports besides tensors: objects that are not built, calls, and the files around a checkpoint.

Begin with `uses`, which covers a single file:

    uses           what a checkpoint has that is not built here, and what other programs would run of it
    embedded       the same for whole files stored as bytes in its metadata
    beside         the same for the other files in its folder or archive
    documents      …those that are configurations and templates
    unreadable     …those that cannot be read
    no_checkpoint  a folder or an archive without a checkpoint, or with several
"""
