"""Darknet: the .weights of YOLO and other networks, with their .cfg; read, not written.

read      the file: its header, which .cfg belongs to it, the tensors
config    the .cfg: its sections and their options
layers    what each section's layer stores, and in which order
place     a layer, what it stores, the sizes of what goes in and comes out
"""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="darknet",
        summary="Darknet's .weights, such as YOLO's: named by the .cfg beside it",
        suffixes=(".weights",),
        magic=((0, b"\0\0\0\0\1\0\0\0"), (0, b"\0\0\0\0\2\0\0\0")),
        claims="ckptconv.formats.darknet.read:claims",
        reader="ckptconv.formats.darknet.read:read",
    ),
)
