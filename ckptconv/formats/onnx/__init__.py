"""ONNX: a graph in protobuf, with its weights inside or in files beside it.

Begin with `read`, which says which tensors are the model's, and with `write`.

    wire  walk  plain_nodes             parsing: the protobuf layout, and a walk that skips the tensors' data
    graph                               the parsed model, as plain data
    read                                the reader: which tensors belong to the model
    tensors  typed_data  external       …lazy tensors from headers, wherever the data is
    quantized                           …integers, scales and zero points that form one weight
    names  inlined_names  recurrent     …the state_dict's names, as far as the graph proves them
    scopes  unnamed  renaming
    metadata  facts                     …metadata and our record; what `inspect` shows of the graph
    plan  template                      writing: which graph, and which tensor fills each initializer
    write  layout  weights  data_file   …the writer: where every byte goes; data files beside the graph
"""

from ckptconv.core.dtypes import DType
from ckptconv.formats.base import Format, Holds

HELD = (
    DType.F64, DType.F32, DType.F16, DType.BF16, DType.F8_E5M2, DType.F8_E4M3, DType.F8_E5M2FNUZ, DType.F8_E4M3FNUZ,
    DType.F8_E8M0, DType.F4, DType.I64, DType.I32, DType.I16, DType.I8, DType.I4, DType.I2, DType.U64, DType.U32,
    DType.U16, DType.U8, DType.U4, DType.U2, DType.BOOL, DType.C128, DType.C64,
)  # fmt: skip
"""The element types that a TensorProto can store."""

FORMATS = (
    Format(
        name="onnx",
        summary="ONNX, a graph and its weights",
        suffixes=(".onnx",),
        claims="ckptconv.formats.onnx.wire:claims",
        reader="ckptconv.formats.onnx.read:read",
        writer="ckptconv.formats.onnx.write:write",
        holds=Holds(dtypes=HELD, metadata="record", ties=True, opaque=True, composites=True),
        options="ckptconv.formats.onnx.plan:OnnxOptions",
        graph=True,
    ),
)
