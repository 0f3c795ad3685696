"""ONNX: a graph in protobuf, its weights inside it or in files beside it."""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="onnx",
        summary="ONNX, the weights of a graph",
        suffixes=(".onnx",),
        claims="ckptconv.formats.onnx.wire:claims",
        reader="ckptconv.formats.onnx.read:read",
    ),
)
