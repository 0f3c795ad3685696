"""What an ONNX graph is made of while it is built: nodes and their names, constants, and the weights that are used."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from ckptconv.arch.recipe.catalog import KINDS
from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.errors import LimitError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import NodeProto, TensorProto

    from ckptconv.arch.recipe.program import Operation, Program
    from ckptconv.core.tensor import TensorInfo

MAX_NODES = 200_000
"""The most nodes of a graph: a few hundred MB of Python objects while it is built."""

_COMPUTED = (DType.F64, DType.F32, DType.F16, DType.BF16)
_ELEMENTS = {DType.F32: "FLOAT", DType.F16: "FLOAT16", DType.BF16: "BFLOAT16", DType.F64: "DOUBLE", DType.I64: "INT64",
             DType.I32: "INT32"}  # fmt: skip


def state_roles(operation: Operation) -> tuple[str, ...]:
    """Roles of the tensors that an operation has and does not compute with."""
    kind = KINDS.get(operation.kind)
    return kind.state if kind else ()


class GraphNodes:
    """Collects the nodes of one program's graph.

    initializers: by name; they have no data yet.
    casts:        the outputs of the Casts, by the name of the weight.
    shapes:       the shapes of the program's values, by name.
    values:       the names of the program's values in the graph.
    """

    def __init__(self, program: Program, infos: Mapping[str, TensorInfo], same: Mapping[str, str], opset: int) -> None:
        self.program, self.infos, self.same, self.opset = program, infos, same, opset
        self.names = {name for operation in program.operations for name in operation.weights.values()}
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.casts: dict[str, str] = {}
        self.numbers: dict[str, count[int]] = {}
        self.constants: dict[tuple[int, ...], str] = {}
        self.findings: list[Finding] = []
        self.shapes = {program.input.name: program.input.shape}
        self.values = {value.name: self.unused(value.name) for value in (program.input, program.output)}
        self.dtype = self.choose_dtype()

    def choose_dtype(self) -> DType:
        """F16 if all weights are F16, else F32. Adds a finding for weights that are cast."""
        state = {
            name for operation in self.program.operations for role, name in operation.weights.items()
            if role in state_roles(operation)
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
                message = f"{quoted(names, 1)}: stored as {dtype}, computed with in {chosen} after a Cast"
                self.findings.append(Finding("cast", "info", names[0], message, str(chosen), str(dtype)))
        return chosen

    def element(self, dtype: DType) -> int:
        from onnx import TensorProto

        return int(getattr(TensorProto, _ELEMENTS[dtype]))

    def unused(self, name: str) -> str:
        """The name, changed until no tensor has it."""
        while name in self.names:
            name += "_"
        return name

    def add(self, kind: str, scope: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node. Returns its output's name: `output`, or one made from the scope and the kind."""
        from onnx import helper

        if len(self.nodes) >= MAX_NODES:
            raise LimitError(f"the graph of {self.program.table.spec.name!r} has more than {MAX_NODES} nodes")
        place = f"/{scope}/{kind}"
        number = next(self.numbers.setdefault(place, count()))
        name = place if number == 0 else f"{place}_{number}"
        result = output or self.unused(f"{name}_output_0")
        self.nodes.append(helper.make_node(kind, inputs, [result], name=name, **attributes))
        return result

    def integers(self, *values: int) -> str:
        """A Constant with a row of integers, such as axes or bounds."""
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

    def filled(self, where: str, like: str, value: float) -> str:
        """A tensor of the same shape as `like`, filled with `value`."""
        from onnx import helper

        shape = self.add("Shape", where, [like])
        tensor = helper.make_tensor("", self.element(self.dtype), [1], [value])
        return self.add("ConstantOfShape", where, [shape], value=tensor)

    def weight(self, name: str) -> str:
        """The name of a tensor in the type that the graph computes in: the tensor itself, or its Cast."""
        from onnx import TensorProto

        name = self.same.get(name, name)
        info = self.infos[name]
        if name not in self.initializers:
            self.initializers[name] = TensorProto(name=name, dims=info.shape, data_type=self.element(info.dtype))
        if info.dtype is self.dtype:
            return name
        if name not in self.casts:
            self.casts[name] = self.add("Cast", name, [name], to=self.element(self.dtype))
        return self.casts[name]
