"""ONNX: a graph in protobuf, its weights inside it or in files beside it.

From the bytes to the tensors, and back:

    wire  walk  plain                   the file's layout, walked in ranges, payloads passed over
    graph                               its parts, as data
    read  tensors  numbers  external    its weights: from a header to a tensor, wherever the bytes lie
    quantized                           …which of them make one weight
    recurrent                           …of LSTM and its kin, as torch has them
    names  lost  inlined  scopes        …under the state_dict's names, as far as the graph proves them
    recorded  facts                     what it says besides: our record, the graph for `inspect`
    plan  template  write  splice       the writer: which graph, and where every byte goes
    weights  data_file                  …what fills it; the file where that lies, if not in the graph's own
"""

from ckptconv.core.dtypes import DType
from ckptconv.formats.base import Format, Holds

HELD = (
    DType.F64, DType.F32, DType.F16, DType.BF16, DType.F8_E5M2, DType.F8_E4M3, DType.F8_E5M2FNUZ, DType.F8_E4M3FNUZ,
    DType.F8_E8M0, DType.F4, DType.I64, DType.I32, DType.I16, DType.I8, DType.I4, DType.I2, DType.U64, DType.U32,
    DType.U16, DType.U8, DType.U4, DType.U2, DType.BOOL, DType.C128, DType.C64,
)  # fmt: skip
"""What a TensorProto stores."""

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
