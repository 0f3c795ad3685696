"""TensorFlow.js: a model.json, or a manifest of weights, and the files beside it; read, not written.

Begin with `read`.

    read      the reader: the document and the weights as tensors
    manifest  parsing the document
    group     the bytes of a group of weights, across several files
    values    weights that are stored in 8 or 16 bits
"""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="tfjs",
        summary="TensorFlow.js' model.json, or its manifest of weights, and their .bin files, or their folder",
        suffixes=("model.json", "weights_manifest.json"),
        magic=((0, b"{"), (0, b"[")),
        claims="ckptconv.formats.tfjs.read:claims",
        reader="ckptconv.formats.tfjs.read:read",
        takes=("file", "folder"),
        dialect="keras",
    ),
)
