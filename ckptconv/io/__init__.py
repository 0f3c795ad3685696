"""Bytes on disk: reading files in ranges, writing them so that nothing is ever half there.

Begin with `source` to read, and with `target` to write.

    source  folder  archive             a file in ranges; a folder of files; zip and tar archives as such folders
    handles                             …more files than a process may hold open
    window  part  held  spool           files within files: a range of one, as a file too, bytes of one, one that has
                                        to be inflated
    gzip  inflated                      …by what it was compressed with
    zip  zip_entries  tar               the directories of archives
    archive_kinds                       which of them a file is
    cursor  varint  documents           bytes one after the other; small files that are read whole
    forward  protobuf                   files from front to back; protobuf's messages, in ranges
    gather  mosaic  grid  pieces        tensors that do not lie as one run: strided, in chunks anywhere or in a grid of
                                        them, joined of ranges
    stream  zip_writing                 tensors on their way into a target
    target  writeback                   a file that is not there, the old one, or whole
    unfinished  staging  leftovers      what stands beside it until then
    checksum  crc32c  digest            what tells whether bytes are the right ones
    limits                              the bounds that every number from a file meets
    process                             another process, which computes for this one
    access  positional                  what systems do differently
"""
