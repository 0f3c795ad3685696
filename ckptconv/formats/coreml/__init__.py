"""Core ML: .mlpackage and .mlmodel, a program or a neural network and its weights; read, not written."""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="coreml",
        summary="Core ML: an .mlpackage, or an .mlmodel of a neural network",
        suffixes=(".mlmodel",),
        magic=((0, b"\x08"),),
        claims="ckptconv.formats.coreml.read:claims",
        reader="ckptconv.formats.coreml.read:read",
        takes=("file", "folder"),
    ),
)
