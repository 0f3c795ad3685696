"""ncnn: a graph in a text and its weights in the file beside it; read, not written.

Begin with `read`, which has the layout of both files.

read      the reader: which files belong together, the tensors
param     parsing the graph
layers    what each layer stores, and in which order
slots     arrays, and the tensors in them
weights   a stored array in each of its encodings, as tensors
"""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="ncnn",
        summary="ncnn's graph in .param and its weights in the .bin beside it, or their folder",
        suffixes=(".param",),
        magic=((0, b"7767517"),),
        claims="ckptconv.formats.ncnn.read:claims",
        reader="ckptconv.formats.ncnn.read:read",
        takes=("file", "folder"),
    ),
)
