"""GGUF: ggml's file of typed metadata and tensors, quantised ones among them."""

from ckptconv.core.dtypes import DTYPES
from ckptconv.formats.base import Format, Holds

FORMATS = (
    Format(
        name="gguf-split",
        summary="GGUF in several files, as llama.cpp splits it: the first of them, or their folder",
        suffixes=(".gguf",),
        magic=((0, b"GGUF"),),
        claims="ckptconv.formats.gguf.parts:claims",
        dialect="gguf",
        reader="ckptconv.formats.gguf.parts:read",
        takes=("file", "folder"),
    ),
    Format(
        name="gguf",
        summary="GGUF, the file of ggml and llama.cpp",
        suffixes=(".gguf",),
        magic=((0, b"GGUF"),),
        claims="ckptconv.formats.gguf.layout:claims",
        dialect="gguf",
        reader="ckptconv.formats.gguf.read:read",
        writer="ckptconv.formats.gguf.write:write",
        notices="ckptconv.formats.gguf.stored:notices",
        holds=Holds(
            dtypes=tuple(DTYPES.values()),
            blocks=True,
            metadata="record",
            extras=True,
            ties=True,
            opaque=True,
            composites=True,
        ),
    ),
)
