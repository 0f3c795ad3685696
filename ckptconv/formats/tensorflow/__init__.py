"""TensorFlow's checkpoints, of both versions of its Python interface, and of Keras' `save_weights`: read, not written.

    PREFIX.index                    a sorted table (`table`): "" → a header, a tensor's name → where its bytes are
    PREFIX.data-00000-of-0000N …    the bytes of the tensors, one after another
    checkpoint                      text: which prefix is the latest
    saved_model.pb                  a SavedModel's graph (`saved_model`), beside the folder variables with these

A tensor may be stored in slices (`bundle`), each under a key of its own. Refused by name: the version of the format
before (one file of V1), other tables of the same make (LevelDB's), compressed blocks, which TensorFlow has never
written, four-bit integers, and values that are not tensors (resources, variants).

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
