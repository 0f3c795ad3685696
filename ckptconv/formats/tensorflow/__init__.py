"""TensorFlow's checkpoints, of TensorFlow 1 and 2 and of Keras' `save_weights`: read, not written.

Begin with `read`, which has the layout of the files.

    read  texts     the reader: tensors, and arrays of texts, from the index and its data files
    table  bundle   the index: a sorted table, and the messages in it
    saved_model     what a SavedModel's graph would run
"""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="tensorflow",
        summary="TensorFlow's checkpoint: an .index and its .data files; the folder of a SavedModel",
        suffixes=(".index",),
        claims="ckptconv.formats.tensorflow.read:claims",
        dialect="keras",
        reader="ckptconv.formats.tensorflow.read:read",
        takes=("file", "folder"),
    ),
)
