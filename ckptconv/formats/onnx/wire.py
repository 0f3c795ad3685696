"""The layout of an ONNX file: one protobuf message, of which all but the tensors' data is read.

The fields that are used, by number (a star marks repeated ones):

    ModelProto        1 ir_version  2 producer_name  3 producer_version  4 domain  5 model_version  7 graph
                      8* opset_import  14* metadata_props  20* training_info  25* functions
    GraphProto        1* node  2 name  5* initializer  11* input  12* output  15* sparse_initializer
    NodeProto         1* input  2* output  3 name  4 op_type  5* attribute  7 domain
    AttributeProto    1 name  2 f  3 i  5 t  6 g  7* floats  8* ints  10* tensors  11* graphs  21 ref_attr_name
                      22 sparse_tensor
    TensorProto       1* dims  2 data_type  3 segment  4* float_data  5* int32_data  6* string_data  7* int64_data
                      8 name  9 raw_data  10* double_data  11* uint64_data  13* external_data  14 data_location
    FunctionProto     1 name  7* node  10 domain  13 overload
    ValueInfoProto    1 name  2 type
    TypeProto         1 tensor  4 sequence  5 map  8 sparse tensor  9 optional; of a tensor: 1 elem_type  2 shape
    TensorShapeProto  1* dim: 1 dim_value  2 dim_param
    String pairs      1 key  2 value            OperatorSetId  1 domain  2 version

Repeated numbers are packed into one field, or in a field each, or any mix of both. Other fields are skipped.

Refused, beyond what `ckptconv.io.protobuf` refuses: a known field with another wire type, and a singular field that
occurs twice.

Source: github.com/onnx/onnx, onnx/onnx.proto (1.23).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError
from ckptconv.io.protobuf import LEN, VARINT, Wire

if TYPE_CHECKING:
    from ckptconv.io.source import Source

_CLAIMED_FIELDS = 64
_MAX_IR_VERSION = 1000
_MODEL_WIRES = dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), LEN) | {1: VARINT, 5: VARINT}
_GRAPH_FIELDS = (1, 2, 5, 10, 11, 12, 13, 14, 15, 16)


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the layout."""
    return CorruptFileError(f"the ONNX file is invalid: {what}")


class Window(Wire):
    """The protobuf fields of a model's file."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, bad)


def claims(source: Source) -> bool:
    """Whether the first fields are those of a model: a plausible IR version, then a graph."""
    if source.size < 4:
        return False
    try:
        return _looks_like_a_model(Window(source), source.size)
    except CorruptFileError:
        return False


def _looks_like_a_model(window: Window, size: int) -> bool:
    """Whether these are a model's fields. A truncated graph counts, so that the reader can say that it is truncated."""
    versioned = False
    for count, (number, wire, begin, end) in enumerate(window.fields(0, 1 << 62)):
        if count == _CLAIMED_FIELDS or _MODEL_WIRES.get(number, wire) != wire:
            return False
        if number == 1:
            versioned = 0 < begin <= _MAX_IR_VERSION
        elif number == 7:
            return versioned and _looks_like_a_graph(window, begin, min(end, size))
        elif number in (2, 3, 4):
            window.text(begin, min(end, size))
        if end >= size:
            return False
    return False


def _looks_like_a_graph(window: Window, begin: int, end: int) -> bool:
    if begin >= end:
        return True
    number, wire, _, _ = next(window.fields(begin, 1 << 62))
    return number in _GRAPH_FIELDS and wire == LEN
