"""GGUF: ggml's and llama.cpp's files of typed metadata and tensors, which may be quantized.

Begin with `layout`, which describes the file, then `read`.

    layout  cursor              the header: its layout, and how its parts are read
    values  metadata            the types of metadata values; typed metadata to and from the metadata tree
    read  write                 one file
    parts  write_parts          a model in several files
    stored                      tensors that GGUF has no type, shape or name for
    filetype                    ``general.file_type``: which type most matrices have
    overrides                   metadata that the user sets with ``--meta``, in the types that llama.cpp expects
    templates                   chat templates that would run code
    reference                   a check of each written file by the gguf package's reader
    hub  to_hub                 metadata for a GGUF from a transformers model's config.json and tokenizer, and back
    legacy                      ggml's files that predate GGUF
"""

from ckptconv.core.dtypes import DTYPES
from ckptconv.formats.base import Format, Holds

_HOLDS = Holds(
    dtypes=tuple(DTYPES.values()), blocks=True, metadata="record", extras=True, ties=True, opaque=True, composites=True
)

FORMATS = (
    Format(
        name="gguf-split",
        summary="GGUF in several files, as llama.cpp splits it: the first of them, or their folder",
        suffixes=(".gguf",),
        magic=((0, b"GGUF"),),
        claims="ckptconv.formats.gguf.parts:claims",
        dialect="gguf",
        reader="ckptconv.formats.gguf.parts:read",
        writer="ckptconv.formats.gguf.write_parts:write",
        layout="ckptconv.formats.gguf.write_parts:layout",
        notices="ckptconv.formats.gguf.stored:notices",
        takes=("file", "folder"),
        holds=_HOLDS,
    ),
    Format(
        name="gguf",
        summary="GGUF, the format of ggml and llama.cpp",
        suffixes=(".gguf",),
        magic=((0, b"GGUF"),),
        claims="ckptconv.formats.gguf.layout:claims",
        dialect="gguf",
        reader="ckptconv.formats.gguf.read:read",
        writer="ckptconv.formats.gguf.write:write",
        sharded="gguf-split",
        notices="ckptconv.formats.gguf.stored:notices",
        holds=_HOLDS,
    ),
    Format(
        name="ggml",
        summary="ggml files that predate GGUF: whisper.cpp's ggml-….bin, llama.cpp's and ggml's examples of 2023",
        suffixes=(".bin",),
        magic=((0, b"lmgg"), (0, b"fmgg"), (0, b"tjgg")),
        claims="ckptconv.formats.gguf.legacy.read:claims",
        dialect="whisper",
        reader="ckptconv.formats.gguf.legacy.read:read",
    ),
)
