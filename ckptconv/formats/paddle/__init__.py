"""PaddlePaddle's inference models: .pdiparams, and the program beside it; read, not written.

What ``paddle.save`` writes (.pdparams) is a bare pickle, of the format of that name.
"""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="paddle",
        summary="PaddlePaddle's inference model: .pdiparams, named by the .json or .pdmodel beside it, or their folder",
        suffixes=(".pdiparams",),
        magic=((0, bytes(16)),),
        claims="ckptconv.formats.paddle.read:claims",
        reader="ckptconv.formats.paddle.read:read",
        takes=("file", "folder"),
    ),
)
