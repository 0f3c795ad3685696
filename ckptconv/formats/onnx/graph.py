"""The parts of a model as plain data: protobuf messages without the tensors' data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ckptconv.io.protobuf import FIXED32, FIXED64, VARINT

FLOAT_DATA, INT32_DATA, STRING_DATA, INT64_DATA, DOUBLE_DATA, UINT64_DATA = 4, 5, 6, 7, 10, 11
NUMBER_WIRES = {
    FLOAT_DATA: FIXED32, INT32_DATA: VARINT, INT64_DATA: VARINT, DOUBLE_DATA: FIXED64, UINT64_DATA: VARINT,
}  # fmt: skip
"""The fields of a TensorProto with repeated numbers, and the wire type of each number if they are not packed."""

Range = tuple[int, int]
"""Where a message lies in the file: ``[start, stop)``."""

Place = tuple[str, str]
"""The path of a graph, and the name of a value in it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Numbers in ``[start, stop)`` of the file: packed, or each with a tag of one byte before it."""

    start: int
    stop: int
    packed: bool


@dataclass(slots=True)
class TensorHeader:
    """A TensorProto without its data, or the floats of an attribute. `dims` are not checked yet.

    code:     the TensorProto.DataType.
    raw:      where `raw_data` is.
    numbers:  where the typed data is (`float_data` and the like), by field number.
    external: the entries of `external_data`.
    """

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
    """A NodeProto: the names of its values, and the tensors and graphs among its attributes.

    sparse:     whether an attribute is a sparse tensor.
    properties: where the entries of its metadata_props are; they are not read yet.
    attributes: where its attributes are, for those that are numbers; they are not read yet.
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
    """A ModelProto. `texts` are its singular strings by field number; the keys of `functions` are made of domain, name
    and overload.
    """

    ir_version: int = 0
    model_version: int = 0
    texts: dict[int, str] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    graph: Graph | None = None
    functions: dict[str, Graph] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def subgraphs(graph: Graph, path: str = "") -> list[tuple[str, Graph]]:
    """The graph and those below it, parents first, each with the path of node and attribute names that leads to it.

    Node names need not be unique in ONNX: a node without a name, or with one that another node with a graph has too, is
    called by its operator or name and its index.
    """
    found = [(path, graph)]
    counts = Counter(node.name for node in graph.nodes if node.graphs)
    prefix = f"{path}." if path else ""
    for index, node in enumerate(graph.nodes):
        for attribute, inner in node.graphs:
            name = node.name if node.name and counts[node.name] == 1 else f"{node.name or node.op}_{index}"
            found += subgraphs(inner, f"{prefix}{name}.{attribute}")
    return found
