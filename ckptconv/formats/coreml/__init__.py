"""Core ML: .mlpackage and .mlmodel, a program or a neural network and its weights; read, not written.

Begin with `read`, which has the layout of a package.

    read                 the reader: a model's constants as tensors
    model                which kind of model it is, its pipeline and its metadata
    program  quantized   the constants of a program, and those that form a quantized weight
    network              the weights of a neural network
    layer_names          names of its layer types
"""

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
