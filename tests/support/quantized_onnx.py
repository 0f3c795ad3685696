"""An ONNX graph with weights that are quantized in every way that our reader knows."""

from __future__ import annotations

from onnx import TensorProto, helper

I8, U8, I4, F32 = TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.FLOAT


def quantized_onnx() -> bytes:
    """The model's bytes; what the graph computes makes no sense."""
    sizes = {
        "w_quantized": (I4, (3, 5)), "s": (F32, (3, 2)), "z": (I4, (3, 2)), "conv": (I8, (2, 3)), "conv_s": (F32, (2,)),
        "one": (F32, ()), "bias": (TensorProto.INT32, (2,)), "m": (U8, (4, 2)), "m_s": (F32, (2,)), "m_z": (U8, (2,)),
        "b_Q4": (U8, (2, 2, 8)), "b_s": (F32, (4,)), "b_z": (U8, (2,)), "e": (I8, (4, 3)),
    }  # fmt: skip
    weights = [
        helper.make_tensor(name, code, dims, [number % 5 + 1 for number in range(_count(dims))])
        for name, (code, dims) in sizes.items()
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w_quantized", "s", "z"], ["y0"], axis=1, block_size=3),
        helper.make_node("QLinearConv", ["x", "one", "i", "conv", "conv_s", "i", "one", "i", "bias"], ["y1"]),
        helper.make_node("MatMulInteger", ["x", "m", "i", "m_z"], ["y2"]),
        helper.make_node("Cast", ["y2"], ["y3"], to=F32),
        helper.make_node("Mul", ["x_s", "m_s"], ["y4"]),
        helper.make_node("Mul", ["y3", "y4"], ["y5"]),
        helper.make_node("MatMulNBits", ["x", "b_Q4", "b_s", "b_z"], ["y6"], "b", None, "com.microsoft", K=32, N=2,
                         bits=4, block_size=16),
        helper.make_node("Gather", ["e", "x"], ["y7"]),
        helper.make_node("DequantizeLinear", ["y7", "one"], ["y8"]),
    ]  # fmt: skip
    made: bytes = helper.make_model(helper.make_graph(nodes, "g", [], [], weights), ir_version=10).SerializeToString()
    return made


def _count(dims: tuple[int, ...]) -> int:
    return 1 if not dims else dims[0] * _count(dims[1:])
