"""GGUF: ggml's file of typed metadata and tensors, quantized ones among them.

Begin with `layout`, which says what is in a file, and with `read`.

    layout  metadata  values   the header; typed metadata as a tree; its types
    read  write                one file
    parts  write_parts         a model in several
    stored                     tensors that GGUF has no type, no shape or no name for
    filetype  said  templates  what most matrices are; what a person says; chat templates that would run code
    reference                  the gguf package's reader, which has to open what was written
    hub                        what lies beside a model of the hub, as llama.cpp has it in a GGUF
    legacy                     ggml's files of before
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
