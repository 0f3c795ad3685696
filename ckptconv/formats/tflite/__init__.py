"""TensorFlow Lite (LiteRT): a graph and its weights in one FlatBuffer; read, not written.

Begin with `read`, which has the layout of the file.

    read                 the reader: which tensors belong to the model
    flatbuffer  schema   FlatBuffers in general, and the tables of TensorFlow Lite's schema
    tensors  sparse      constants as tensors: quantized ones with their scales, sparse ones as dense
    facts                what `inspect` shows of the graph
"""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="tflite",
        summary="TensorFlow Lite (LiteRT), a graph and its weights in a FlatBuffer",
        suffixes=(".tflite",),
        magic=((4, b"TFL3"),),
        claims="ckptconv.formats.tflite.read:claims",
        reader="ckptconv.formats.tflite.read:read",
    ),
)
