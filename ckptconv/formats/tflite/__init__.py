"""TensorFlow Lite (LiteRT): a graph and its weights in one FlatBuffer; read, not written."""

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
