"""PaddlePaddle's inference models: .pdiparams, and the program beside it; read, not written.

Begin with `read`, which has the layout; `program` and `variable` read names, types and shapes from the program. Files
of ``paddle.save`` (.pdparams) are bare pickles, and read as such.
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
