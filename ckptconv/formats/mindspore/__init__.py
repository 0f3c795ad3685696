"""MindSpore: the .ckpt of its models; read, not written (`read`)."""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="mindspore",
        summary="MindSpore's .ckpt: a network's parameters, and its optimizer's",
        suffixes=(".ckpt",),
        magic=((0, b"\n"),),
        claims="ckptconv.formats.mindspore.read:claims",
        reader="ckptconv.formats.mindspore.read:read",
    ),
)
