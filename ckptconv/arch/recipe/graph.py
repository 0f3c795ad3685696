"""An ONNX graph of a program, without the weights' bytes.

Every tensor keeps its state_dict name and layout: a linear layer is ``Gemm(transB=1)``, or a Transpose and a MatMul
where its input has other than two dimensions. The initializers have a type and dimensions and no data: `formats.onnx`
streams that in. Needs the onnx package, and no framework.

The graph computes in F32, or in F16 where all of its weights are F16: onnxruntime's CPU kernels lack BF16, and F64 for
many operators. Weights of another type are stored as they are, with a Cast behind them.

Operators and their versions: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

    from ckptconv.arch.recipe.program import Operation, Program, Value
    from ckptconv.core.tensor import TensorInfo

DEFAULT_OPSET = 18
"""What torch's exporter writes by default, and runtimes from 2023 on take."""

OLDEST_OPSET = 17
"""The first with LayerNormalization."""

_COMPUTED = (DType.F64, DType.F32, DType.F16, DType.BF16)
_ELEMENTS = {DType.F32: "FLOAT", DType.F16: "FLOAT16", DType.BF16: "BFLOAT16", DType.F64: "DOUBLE", DType.I64: "INT64",
             DType.I32: "INT32"}  # fmt: skip
_UNARY = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "identity": "Identity", "dropout": "Identity"}


def build_graph(
    program: Program,
    infos: Mapping[str, TensorInfo],
    *,
    same: Mapping[str, str] | None = None,
    opset: int = DEFAULT_OPSET,
) -> tuple[ModelProto, list[Finding]]:
    """The model with empty initializers, and what a person should know of it.

    infos: headers of the checkpoint's tensors, by state_dict name; all that the program uses must be there.
    same:  tied names, with the name under which their tensor is stored.

    Raises UsageError for an opset that is not known, UnsupportedError for a weight of no floating type.
    """
    from onnx import defs

    newest = defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UsageError(f"no graph is made for opset {opset}", hint=f"{OLDEST_OPSET} to {newest}")
    builder = _Builder(program, infos, same or {}, opset)
    return builder.model(), builder.findings


class _Builder:
    def __init__(self, program: Program, infos: Mapping[str, TensorInfo], same: Mapping[str, str], opset: int) -> None:
        self.program, self.infos, self.same, self.opset = program, infos, same, opset
        self.names = {name for operation in program.operations for name in operation.weights.values()}
        self.nodes: list[NodeProto] = []
        self.holes: dict[str, TensorProto] = {}
        self.ready: dict[tuple[str, str], str] = {}
        self.numbers: dict[str, count[int]] = {}
        self.constants: dict[tuple[int, ...], str] = {}
        self.findings: list[Finding] = []
        self.shapes = {program.input.name: program.input.shape}
        self.values = {value.name: self.unused(value.name) for value in (program.input, program.output)}
        self.dtype = self.computed()

    def computed(self) -> DType:
        """F16 where all weights are; else F32. Notes which weights are cast."""
        state = {
            name for operation in self.program.operations for role, name in operation.weights.items()
            if role == "num_batches_tracked"
        }  # fmt: skip
        types: dict[DType, list[str]] = {}
        for name in sorted(self.names - state):
            types.setdefault(self.infos[name].dtype, []).append(name)
        for dtype, names in types.items():
            if dtype not in _COMPUTED:
                raise UnsupportedError(
                    f"{names[0]!r} is {dtype}, and a graph computes with {', '.join(map(str, _COMPUTED))}",
                    hint="--dtype F32 casts it",
                )
        chosen = DType.F16 if set(types) == {DType.F16} else DType.F32
        for dtype, names in types.items():
            if dtype is not chosen:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                message = f"{names[0]!r}{more}: stored as {dtype}, computed with in {chosen} after a Cast"
                self.findings.append(Finding("cast", "info", names[0], message, str(chosen), str(dtype)))
        return chosen

    def model(self) -> ModelProto:
        from onnx import OperatorSetIdProto, helper

        for operation in self.program.operations:
            self.operation(operation)
            self.shapes[operation.output] = operation.shape
        graph = helper.make_graph(
            self.nodes, self.program.table.spec.name, [self.value(self.program.input)],
            [self.value(self.program.output)], list(self.holes.values()),
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

    def element(self, dtype: DType) -> int:
        from onnx import TensorProto

        return int(getattr(TensorProto, _ELEMENTS[dtype]))

    def unused(self, name: str) -> str:
        """A value's name that no tensor has."""
        while name in self.names:
            name += "_"
        return name

    def add(self, kind: str, scope: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """A node; the name of its output is made from where it stands, or given."""
        from onnx import helper

        place = f"/{scope}/{kind}"
        number = next(self.numbers.setdefault(place, count()))
        name = place if number == 0 else f"{place}_{number}"
        made = output or self.unused(f"{name}_output_0")
        self.nodes.append(helper.make_node(kind, inputs, [made], name=name, **attributes))
        return made

    def integers(self, *values: int) -> str:
        """A Constant row of integers: axes, bounds."""
        from onnx import TensorProto, helper

        if values not in self.constants:
            tensor = helper.make_tensor("", TensorProto.INT64, [len(values)], values)
            self.constants[values] = self.add("Constant", "constants", [], value=tensor)
        return self.constants[values]

    def scalar(self, value: float) -> str:
        from onnx import helper

        return self.add(
            "Constant", "constants", [], value=helper.make_tensor("", self.element(self.dtype), [], [value])
        )

    def weight(self, name: str) -> str:
        """A tensor as what is computed with: itself, or its cast."""
        from onnx import TensorProto

        name = self.same.get(name, name)
        info = self.infos[name]
        if name not in self.holes:
            self.holes[name] = TensorProto(name=name, dims=info.shape, data_type=self.element(info.dtype))
        if info.dtype is self.dtype:
            return name
        key = (name, "cast")
        if key not in self.ready:
            self.ready[key] = self.add("Cast", name, [name], to=self.element(self.dtype))
        return self.ready[key]

    def operation(self, operation: Operation) -> None:
        inputs = [self.values[name] for name in operation.inputs]
        weights = {role: self.weight(name) for role, name in operation.weights.items() if role != "num_batches_tracked"}
        output = self.values.get(operation.output)
        make = getattr(self, f"_{operation.kind}", None)
        if operation.kind in _UNARY:
            made = self.add(_UNARY[operation.kind], operation.name, inputs, output)
        else:
            assert make is not None, operation.kind
            made = make(operation, inputs, weights, output)
        self.values[operation.output] = made

    def rank(self, operation: Operation) -> int:
        return len(self.shapes[operation.inputs[0]])

    def _add(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Add", operation.name, inputs, output)

    def _linear(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        where, bias = operation.name, weights.get("bias")
        if self.rank(operation) == 2:
            return self.add("Gemm", where, [*inputs, weights["weight"], *([bias] if bias else [])], output, transB=1)
        turned = self.add("Transpose", where, [weights["weight"]], perm=[1, 0])
        made = self.add("MatMul", where, [*inputs, turned], None if bias else output)
        return self.add("Add", where, [made, bias], output) if bias else made

    def _conv1d(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        axes = self.rank(operation) - 2
        said = operation.attributes
        return self.add(
            "Conv", operation.name, [*inputs, weights["weight"], *([weights["bias"]] if "bias" in weights else [])],
            output, strides=[said["stride"]] * axes, pads=[said["padding"]] * (2 * axes),
            dilations=[said["dilation"]] * axes, group=said["groups"],
        )  # fmt: skip

    _conv2d = _conv1d

    def _batch_norm(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        where, mean = operation.name, weights["running_mean"]
        scale = weights.get("weight") or self.filled(where, mean, 1.0)
        shift = weights.get("bias") or self.filled(where, mean, 0.0)
        row = [*inputs, scale, shift, mean, weights["running_var"]]
        return self.add("BatchNormalization", where, row, output, epsilon=operation.attributes["eps"])

    def filled(self, where: str, like: str, value: float) -> str:
        """A tensor of `like`'s shape, all `value`."""
        from onnx import helper

        shape = self.add("Shape", where, [like])
        tensor = helper.make_tensor("", self.element(self.dtype), [1], [value])
        return self.add("ConstantOfShape", where, [shape], value=tensor)

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

    def _softmax(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Softmax", operation.name, inputs, output, axis=operation.attributes["axis"])

    def _log_softmax(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("LogSoftmax", operation.name, inputs, output, axis=operation.attributes["axis"])

    def _max_pool1d(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.pool("MaxPool", operation, inputs, output, dilations="dilation")

    def _avg_pool1d(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.pool("AveragePool", operation, inputs, output, count="count_include_pad")

    _max_pool2d, _avg_pool2d = _max_pool1d, _avg_pool1d

    def pool(
        self,
        kind: str,
        operation: Operation,
        inputs: list[str],
        output: str | None,
        dilations: str = "",
        count: str = "",
    ) -> str:
        axes, said = self.rank(operation) - 2, operation.attributes
        more: dict[str, object] = {"dilations": [said[dilations]] * axes} if dilations else {}
        if count:
            more["count_include_pad"] = int(said[count])
        return self.add(
            kind, operation.name, inputs, output, kernel_shape=[said["kernel"]] * axes, strides=[said["stride"]] * axes,
            pads=[said["padding"]] * (2 * axes), ceil_mode=int(said["ceil_mode"]), **more,
        )  # fmt: skip

    def _adaptive_avg_pool1d(
        self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None
    ) -> str:
        return self.adaptive(operation, inputs, output, "GlobalAveragePool", "AveragePool", "ReduceMean")

    def _adaptive_max_pool1d(
        self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None
    ) -> str:
        return self.adaptive(operation, inputs, output, "GlobalMaxPool", "MaxPool", "ReduceMax")

    _adaptive_avg_pool2d, _adaptive_max_pool2d = _adaptive_avg_pool1d, _adaptive_max_pool1d

    def adaptive(self, operation: Operation, inputs: list[str], output: str | None, *kinds: str) -> str:
        """Pool to a given size. Windows of unequal lengths, which no ONNX operator has, are taken one by one."""
        whole, even, reduce = kinds
        size, where = int(operation.attributes["size"]), operation.name
        if size == 1:
            return self.add(whole, where, inputs, output)
        dims = self.shapes[operation.inputs[0]][2:]
        if not all(isinstance(dim, int) for dim in dims):
            raise UsageError(
                f"pooling to {size} needs an input of known size", hint="state the input's dimensions in the recipe"
            )
        lengths = [dim for dim in dims if isinstance(dim, int)]
        if all(length == size for length in lengths):
            return self.add("Identity", where, inputs, output)
        if all(length % size == 0 for length in lengths):
            steps = [length // size for length in lengths]
            return self.add(even, where, inputs, output, kernel_shape=steps, strides=steps)
        value = inputs[0]
        for axis, length in enumerate(lengths, 2):
            parts = []
            for place in range(size):
                start, stop = place * length // size, -(-(place + 1) * length // size)
                bounds = [self.integers(start), self.integers(stop), self.integers(axis)]
                part = self.add("Slice", where, [value, *bounds])
                # axes are an input of ReduceMean and ReduceMax from opset 18 on
                if self.opset >= 18:
                    parts.append(self.add(reduce, where, [part, self.integers(axis)], keepdims=1))
                else:
                    parts.append(self.add(reduce, where, [part], axes=[axis], keepdims=1))
            last = axis == len(lengths) + 1
            value = self.add("Concat", where, parts, output if last else None, axis=axis)
        return value

    def _flatten(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        start = int(operation.attributes["start"])
        if start == 1:
            return self.add("Flatten", operation.name, inputs, output, axis=1)
        shape = self.integers(*[0] * start, -1)
        return self.add("Reshape", operation.name, [*inputs, shape], output)
