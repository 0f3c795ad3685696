"""TensorFlow.js: a model.json, or a manifest of weights, and the files beside it; read, not written.

Begin with `manifest`, which says what the document has; `values` are those that are stored in fewer bits.
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
