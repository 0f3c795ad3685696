"""Tensors that keep a name which an exporter generated, and what the graph still says about each.

    operator     of the only node that uses it; "recurrent:weight_hh_l0" if it was unpacked from a recurrent layer
    transposed   whether it is the right operand of a matrix product, where a linear layer's weight is transposed
    scope        the module that the node is in. The newer exporter notes its name: "layers.0.fc". The older one names
                 nodes by the modules that were called, each by its name in its parent: "/layers.0/fc" in the node
                 "/layers.0/fc/MatMul"; modules that only hold others are missing there
    bias         the bias that is added to the product as `torch.nn.functional.linear` adds it: the older exporter makes
                 it the first operand, which nobody does in a sum of their own

Only an architecture can give such tensors their names back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptconv.formats.onnx.scopes import read_scopes
from ckptconv.formats.onnx.tensors import DTYPE_BY_CODE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.formats.onnx.graph import Graph, Node, TensorHeader
    from ckptconv.formats.onnx.wire import Window

_GENERATED = re.compile(r"onnx::\w+|val_\d+|\d+|/.*|.*_output_\d+")
"""Names that exporters generate for values that they computed."""

_COMPUTED = re.compile(r"(t|transpose|permute|mul|add|sub|div)(_\d+)?")
"""Names of values in the newer exporter's graphs, after the operation; a parameter may have such a name too."""


@dataclass(frozen=True, slots=True)
class UnnamedTensor:
    """A tensor with a generated name; see the module's docstring. `scope` is None if the graph states none."""

    name: str
    operator: str
    transposed: bool = False
    scope: str | None = None
    bias: str | None = None

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> UnnamedTensor:
        """The inverse of `to_dict`."""
        return cls(**row)

    def to_dict(self) -> dict[str, str | bool | None]:
        """What `inspect --json` shows among the graph's facts."""
        return {
            "name": self.name, "operator": self.operator, "transposed": self.transposed, "scope": self.scope,
            "bias": self.bias,
        }  # fmt: skip


def is_generated(name: str) -> bool:
    """Whether an exporter generated the name."""
    return _GENERATED.fullmatch(name) is not None


def find_unnamed(
    graph: Graph,
    stored: Mapping[str, TensorHeader],
    uses: Mapping[str, Sequence[Node]],
    known: set[str],
    unpacked: Sequence[str],
    window: Window,
) -> list[UnnamedTensor]:
    """Find the tensors with generated names, in the order in which the graph uses them.

    stored:   the graph's initializers.
    uses:     the nodes that take each value.
    known:    initializers that are already explained.
    unpacked: the names of tensors that were unpacked from recurrent layers.
    """
    unnamed: dict[str, UnnamedTensor] = {}
    for node in graph.nodes:
        for position, name in enumerate(node.inputs):
            if name in known or len(uses[name]) != 1 or not (is_generated(name) or _COMPUTED.fullmatch(name)):
                continue
            if name not in stored or not _is_float(stored[name]):
                continue
            transposed = node.op == "MatMul" and position == 1 and len(stored[name].dims) == 2
            bias = _bias_name(node, stored, uses) if transposed else None
            unnamed[name] = UnnamedTensor(name, node.op, transposed, _scope(node, window), bias)
    recurrent = [
        UnnamedTensor(name, f"recurrent:{name.rpartition('.')[2]}", scope=name.rpartition("/")[0] or "/")
        for name in unpacked
        if is_generated(name)
    ]
    return [*unnamed.values(), *recurrent]


def _is_float(header: TensorHeader) -> bool:
    dtype = DTYPE_BY_CODE.get(header.code)
    return dtype is not None and dtype.kind in ("float", "complex")


def _scope(node: Node, window: Window) -> str | None:
    if node.properties:
        names = read_scopes(window, node).names
        return names[-2] if len(names) >= 2 else None
    return (node.name.rpartition("/")[0] or "/") if node.name.startswith("/") else None


def bias_addition(node: Node, uses: Mapping[str, Sequence[Node]]) -> Node | None:
    """The only node that uses this node's output, if it is an Add with the output as its second operand."""
    users = uses[node.outputs[0]] if len(node.outputs) == 1 else []
    is_addition = len(users) == 1 and users[0].op == "Add" and users[0].inputs[1:] == node.outputs
    return users[0] if is_addition else None


def _bias_name(node: Node, stored: Mapping[str, TensorHeader], uses: Mapping[str, Sequence[Node]]) -> str | None:
    addition = bias_addition(node, uses)
    if addition is None:
        return None
    name = addition.inputs[0]
    return name if name in stored and name.rpartition(".")[2] == "bias" else None
