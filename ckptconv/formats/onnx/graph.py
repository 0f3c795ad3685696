"""The parts of a model as plain data: messages without their payloads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ckptconv.io.protobuf import FIXED32, FIXED64, VARINT

FLOAT_DATA, INT32_DATA, STRING_DATA, INT64_DATA, DOUBLE_DATA, UINT64_DATA = 4, 5, 6, 7, 10, 11
NUMBER_WIRES = {
    FLOAT_DATA: FIXED32, INT32_DATA: VARINT, INT64_DATA: VARINT, DOUBLE_DATA: FIXED64, UINT64_DATA: VARINT,
}  # fmt: skip
"""The repeated numbers of a tensor, and the wire type of each where they are not packed."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """Numbers in ``[start, stop)`` of the file: packed one after the other, or each with a tag of one byte."""

    start: int
    stop: int
    packed: bool


@dataclass(slots=True)
class TensorHeader:
    """A TensorProto without its numbers, or the floats of an attribute. `dims` are not yet checked."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    code: int = 0
    raw: Range | None = None
    numbers: dict[int, list[Segment]] = field(default_factory=dict)
    has_strings: bool = False
    is_external: bool = False
    external: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Node:
    """A NodeProto: names of its values, the tensors and graphs among its attributes; where its properties, and its
    attributes that are numbers, are unread.
    """

    op: str = ""
    domain: str = ""
    name: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    tensors: tuple[TensorHeader, ...] = ()
    graphs: tuple[tuple[str, Graph], ...] = ()
    sparse: bool = False
    properties: tuple[Range, ...] = ()
    attributes: tuple[Range, ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether it is ONNX's own Constant."""
        return self.op == "Constant" and self.domain in ("", "ai.onnx")


@dataclass(slots=True)
class Graph:
    """A GraphProto, or the body of a FunctionProto. Inputs and outputs are ranges of ValueInfoProto."""

    name: str = ""
    nodes: list[Node] = field(default_factory=list)
    initializers: list[TensorHeader] = field(default_factory=list)
    sparse: list[Range] = field(default_factory=list)
    inputs: list[Range] = field(default_factory=list)
    outputs: list[Range] = field(default_factory=list)


@dataclass(slots=True)
class Model:
    """A ModelProto. `texts` are its singular strings by field number; functions go by domain, name and overload."""

    ir_version: int = 0
    model_version: int = 0
    texts: dict[int, str] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    graph: Graph | None = None
    functions: dict[str, Graph] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def subgraphs(graph: Graph, path: str = "") -> list[tuple[str, Graph]]:
    """The graph and those under it, parents first, each with the path of node and attribute names that leads to it.

    A node goes by its operator and place where it has no name, or one that another with a graph has too: ONNX does not
    ask for names that differ.
    """
    found = [(path, graph)]
    count = Counter(node.name for node in graph.nodes if node.graphs)
    for index, node in enumerate(graph.nodes):
        for attribute, inner in node.graphs:
            own = node.name if node.name and count[node.name] == 1 else f"{node.name or node.op}_{index}"
            found += subgraphs(inner, f"{path}.{own}.{attribute}" if path else f"{own}.{attribute}")
    return found
