"""A program as an ONNX graph, without the weights' bytes.

Every tensor keeps its state_dict name and layout: a linear layer is ``Gemm(transB=1)``, or a Transpose and a MatMul if
its input has other than two dimensions. The initializers have a type and dimensions, but no data: `formats.onnx`
streams that in. Needs the onnx package, but no framework.

The graph computes in F32, or in F16 if all of its weights are F16: onnxruntime's CPU kernels lack BF16, and F64 for
many operators. Weights of another type are stored as they are, followed by a Cast.

Operators and their versions: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.recipe.attending import AttentionNodes
from ckptconv.arch.recipe.nodes import state_roles
from ckptconv.arch.recipe.pooling import adaptive_pool, pool
from ckptconv.core.dtypes import DType
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, ValueInfoProto

    from ckptconv.arch.recipe.program import Operation, Program, Value
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import TensorInfo

DEFAULT_OPSET = 18
"""The default of torch's exporter, which runtimes from 2023 on support."""

OLDEST_OPSET = 17
"""The first one with LayerNormalization."""

_UNARY = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "identity": "Identity", "dropout": "Identity",
          "unused": "Identity"}  # fmt: skip


def build_graph(
    program: Program,
    infos: Mapping[str, TensorInfo],
    *,
    same: Mapping[str, str] | None = None,
    opset: int = DEFAULT_OPSET,
) -> tuple[ModelProto, list[Finding]]:
    """The model, with empty initializers, and findings about it.

    infos: headers of the checkpoint's tensors, by state_dict name; all that the program uses must be there.
    same:  for each tied name, the name under which its tensor is stored.

    Raises UsageError for an unknown opset, UnsupportedError for a weight that is not floats, LimitError beyond
    `MAX_NODES`.
    """
    from onnx import defs

    newest = defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UsageError(f"no graph is made for opset {opset}", hint=f"{OLDEST_OPSET} to {newest}")
    builder = GraphBuilder(program, infos, same or {}, opset)
    return builder.model(), builder.findings


class GraphBuilder(AttentionNodes):
    """Makes the nodes of each operation, in a method that is named after the operation's kind."""

    def model(self) -> ModelProto:
        from onnx import OperatorSetIdProto, helper

        for operation in self.program.operations:
            self.operation(operation)
            self.shapes[operation.output] = operation.shape
        graph = helper.make_graph(
            self.nodes, self.program.table.spec.name, [self.value(self.program.input)],
            [self.value(self.program.output)], list(self.initializers.values()),
        )  # fmt: skip
        opset = OperatorSetIdProto(domain="", version=self.opset)
        model = helper.make_model(graph, producer_name="ckptconv", opset_imports=[opset])
        model.ir_version = helper.find_min_ir_version_for([opset])
        return model

    def value(self, value: Value) -> ValueInfoProto:
        from onnx import helper

        dtype = self.dtype if value.dtype is None else DType.I64 if value.dtype == "I64" else DType.I32
        shape = [dim if dim is not None else f"{value.name}_{axis}" for axis, dim in enumerate(value.shape)]
        return helper.make_tensor_value_info(self.values[value.name], self.element(dtype), shape)

    def operation(self, operation: Operation) -> None:
        inputs = [self.values[name] for name in operation.inputs]
        unread = state_roles(operation)
        weights = {role: self.weight(name) for role, name in operation.weights.items() if role not in unread}
        output = self.values.get(operation.output)
        make = getattr(self, f"_{operation.kind}", None)
        if operation.kind in _UNARY:
            result = self.add(_UNARY[operation.kind], operation.name, inputs, output)
        else:
            assert make is not None, operation.kind
            result = make(operation, inputs, weights, output)
        self.values[operation.output] = result

    def rank(self, operation: Operation) -> int:
        return len(self.shapes[operation.inputs[0]])

    def _add(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Add", operation.name, inputs, output)

    def _linear(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        where, bias = operation.name, weights.get("bias")
        if self.rank(operation) == 2:
            return self.add("Gemm", where, [*inputs, weights["weight"], *([bias] if bias else [])], output, transB=1)
        return self.projected(where, inputs[0], weights["weight"], bias, output)

    def _conv1d(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        axes = self.rank(operation) - 2
        attributes = operation.attributes
        return self.add(
            "Conv", operation.name, [*inputs, weights["weight"], *([weights["bias"]] if "bias" in weights else [])],
            output, strides=[attributes["stride"]] * axes, pads=[attributes["padding"]] * (2 * axes),
            dilations=[attributes["dilation"]] * axes, group=attributes["groups"],
        )  # fmt: skip

    _conv2d = _conv1d

    def _batch_norm(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        where, mean = operation.name, weights["running_mean"]
        scale = weights.get("weight") or self.filled(where, mean, 1.0)
        shift = weights.get("bias") or self.filled(where, mean, 0.0)
        row = [*inputs, scale, shift, mean, weights["running_var"]]
        return self.add("BatchNormalization", where, row, output, epsilon=operation.attributes["eps"])

    def _layer_norm(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        row = [*inputs, weights["weight"], *([weights["bias"]] if "bias" in weights else [])]
        axis = -len(self.infos[operation.weights["weight"]].shape)
        return self.add(
            "LayerNormalization", operation.name, row, output, axis=axis, epsilon=operation.attributes["eps"]
        )

    def _embedding(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Gather", operation.name, [weights["weight"], *inputs], output, axis=0)

    def _gelu(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        where, (x,) = operation.name, inputs
        if self.opset >= 20:
            return self.add("Gelu", where, inputs, output, approximate="none")
        scaled = self.add("Div", where, [x, self.scalar(2**0.5)])
        grown = self.add("Add", where, [self.add("Erf", where, [scaled]), self.scalar(1.0)])
        return self.add("Mul", where, [self.add("Mul", where, [x, grown]), self.scalar(0.5)], output)

    def _gelu_tanh(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        where, (x,) = operation.name, inputs
        if self.opset >= 20:
            return self.add("Gelu", where, inputs, output, approximate="tanh")
        cubed = self.add("Mul", where, [self.add("Mul", where, [x, x]), x])
        inner = self.add("Add", where, [x, self.add("Mul", where, [cubed, self.scalar(0.044715)])])
        scaled = self.add("Mul", where, [inner, self.scalar((2 / 3.141592653589793) ** 0.5)])
        grown = self.add("Add", where, [self.add("Tanh", where, [scaled]), self.scalar(1.0)])
        return self.add("Mul", where, [self.add("Mul", where, [x, grown]), self.scalar(0.5)], output)

    def _silu(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Mul", operation.name, [*inputs, self.add("Sigmoid", operation.name, inputs)], output)

    def _relu6(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Clip", operation.name, [*inputs, self.scalar(0.0), self.scalar(6.0)], output)

    def _hardsigmoid(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("HardSigmoid", operation.name, inputs, output, alpha=1 / 6, beta=0.5)

    def _hardswish(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        gate = self.add("HardSigmoid", operation.name, inputs, alpha=1 / 6, beta=0.5)
        return self.add("Mul", operation.name, [*inputs, gate], output)

    def _softmax(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Softmax", operation.name, inputs, output, axis=operation.attributes["axis"])

    def _log_softmax(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("LogSoftmax", operation.name, inputs, output, axis=operation.attributes["axis"])

    def _max_pool1d(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return pool(self, "MaxPool", operation, inputs[0], output)

    def _avg_pool1d(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return pool(self, "AveragePool", operation, inputs[0], output)

    def _adaptive_avg_pool1d(
        self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None
    ) -> str:
        return adaptive_pool(self, "Average", operation, inputs[0], output)

    def _adaptive_max_pool1d(
        self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None
    ) -> str:
        return adaptive_pool(self, "Max", operation, inputs[0], output)

    _max_pool2d, _avg_pool2d = _max_pool1d, _avg_pool1d
    _adaptive_avg_pool2d, _adaptive_max_pool2d = _adaptive_avg_pool1d, _adaptive_max_pool1d

    def _flatten(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        start = int(operation.attributes["start"])
        if start == 1:
            return self.add("Flatten", operation.name, inputs, output, axis=1)
        shape = self.integers(*[0] * start, -1)
        return self.add("Reshape", operation.name, [*inputs, shape], output)
