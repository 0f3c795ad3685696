"""Tensors that keep a name which an exporter made up, and what the graph still says of each.

    operator     of the one node that takes it; "recurrent:weight_hh_l0" for what was unpacked from a recurrent layer
    transposed   a product takes it from the right, where linear layers have their weight transposed
    scope        the module in which the node stands. The newer exporter notes its name: "layers.0.fc". The older one
                 names nodes by the modules that were called, each as its parent has it: "/layers.0/fc" in the node
                 "/layers.0/fc/MatMul"; a module that only holds others is missing there
    bias         the bias that is added to the product as `torch.nn.functional.linear` adds it: the older exporter puts
                 it first, which a sum that somebody wrote has no reason to do

An architecture gives such tensors their names back; nothing else does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptconv.formats.onnx.scopes import noted
from ckptconv.formats.onnx.tensors import DTYPE_BY_CODE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.formats.onnx.graph import Graph, Node, TensorHeader
    from ckptconv.formats.onnx.wire import Window

_GIVEN = re.compile(r"onnx::\w+|val_\d+|\d+|/.*|.*_output_\d+")
"""Names that exporters make up for what they computed."""

_COMPUTED = re.compile(r"(t|transpose|permute|mul|add|sub|div)(_\d+)?")
"""Names of values in the newer exporter's graphs, after what computed them; a parameter may be called so too."""


@dataclass(frozen=True, slots=True)
class Lost:
    """One such tensor; `scope` is None where the graph says nothing of it."""

    name: str
    operator: str
    transposed: bool = False
    scope: str | None = None
    bias: str | None = None

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Lost:
        """From what `to_dict` gave."""
        return cls(**row)

    def to_dict(self) -> dict[str, str | bool | None]:
        """As `inspect --json` shows it among the graph's facts."""
        return {
            "name": self.name, "operator": self.operator, "transposed": self.transposed, "scope": self.scope,
            "bias": self.bias,
        }  # fmt: skip


def is_given(name: str) -> bool:
    """Whether an exporter made the name up."""
    return _GIVEN.fullmatch(name) is not None


def find_lost(
    graph: Graph,
    stored: Mapping[str, TensorHeader],
    uses: Mapping[str, Sequence[Node]],
    known: set[str],
    unpacked: Sequence[str],
    window: Window,
) -> list[Lost]:
    """In the order in which the graph uses them.

    stored:   the graph's initializers; uses: the nodes that take each value.
    known:    initializers that have been explained otherwise. unpacked: names from recurrent layers.
    """
    lost: dict[str, Lost] = {}
    for node in graph.nodes:
        for place, name in enumerate(node.inputs):
            if name in known or len(uses[name]) != 1 or not (is_given(name) or _COMPUTED.fullmatch(name)):
                continue
            if name not in stored or not _is_float(stored[name]):
                continue
            turned = node.op == "MatMul" and place == 1 and len(stored[name].dims) == 2
            bias = _bias(node, stored, uses) if turned else None
            lost[name] = Lost(name, node.op, turned, _scope(node, window), bias)
    recurrent = [
        Lost(name, f"recurrent:{name.rpartition('.')[2]}", scope=name.rpartition("/")[0] or "/")
        for name in unpacked
        if is_given(name)
    ]
    return [*lost.values(), *recurrent]


def _is_float(header: TensorHeader) -> bool:
    dtype = DTYPE_BY_CODE.get(header.code)
    return dtype is not None and dtype.kind in ("float", "complex")


def _scope(node: Node, window: Window) -> str | None:
    if node.properties:
        _, scopes = noted(window, node)
        return scopes[-2] if len(scopes) >= 2 else None
    return (node.name.rpartition("/")[0] or "/") if node.name.startswith("/") else None


def added_after(node: Node, uses: Mapping[str, Sequence[Node]]) -> Node | None:
    """The one node that takes what this one gives, where it adds something put first; None where there is none such."""
    after = uses[node.outputs[0]] if len(node.outputs) == 1 else []
    return after[0] if len(after) == 1 and after[0].op == "Add" and after[0].inputs[1:] == node.outputs else None


def _bias(node: Node, stored: Mapping[str, TensorHeader], uses: Mapping[str, Sequence[Node]]) -> str | None:
    added = added_after(node, uses)
    if added is None:
        return None
    name = added.inputs[0]
    return name if name in stored and name.rpartition(".")[2] == "bias" else None
