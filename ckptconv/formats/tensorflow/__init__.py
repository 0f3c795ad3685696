"""TensorFlow's checkpoints, of TensorFlow 1 and 2 and of Keras' `save_weights`: read, not written.

    PREFIX.index                    a sorted table (`table`): "" → a header, a tensor's name → where its bytes are
    PREFIX.data-00000-of-0000N …    the bytes of the tensors, one after another
    checkpoint                      text: which prefix is the latest
    saved_model.pb                  a SavedModel's graph (`saved_model`), beside a folder, variables, with these files

Begin with `read`.

    read  texts     the reader: tensors, and arrays of texts, from the index and its data files
    table  bundle   the index: a sorted table, and the messages in it
    saved_model     what a SavedModel's graph would run

A tensor may be stored in slices (`bundle`), each under its own key. Refused by name: the previous version of the format
(V1, one file), other files of the same table format (LevelDB's), compressed blocks, which TensorFlow never writes,
four-bit integers, and values that are not tensors (resources, variants).

Sources: tensorflow/core/util/tensor_bundle (tensor_bundle.cc, naming.cc), protobuf/tensor_bundle.proto.
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
