"""Bytes on disk: reading files in ranges, and writing files atomically.

Begin with `source` to read, and with `target` to write.

    source  folder  archive             a file read in ranges; a folder of files; a zip or tar archive as such a folder
    handles                             …more files than a process may hold open
    window  part  held  spool           files within files: a range, the same as a file, bytes in memory, a file that
                                        has to be inflated
    gzip  inflated                      …by compression
    zip  zip_entries  tar               the directories of archives
    archive_kinds                       which kind of archive a file is
    cursor  varint  documents           parsing bytes in order; small files that are read whole
    forward  protobuf                   reading files front to back; protobuf messages, in ranges
    gather  mosaic  grid  pieces        tensors that are not one run of bytes: strided, in chunks, in a grid of chunks,
                                        concatenated from ranges
    stream  zip_writing                 writing tensors into a target
    target  writeback                   writing a file atomically; starting disk writes early
    unfinished  staging  leftovers      the unfinished file beside the target, and what killed runs left
    checksum  crc32c  digest            checksums, and the content digest
    limits                              the bounds for numbers from files
    process                             another process that computes for this one
    access  positional                  differences between operating systems
"""
