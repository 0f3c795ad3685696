"""What `inspect` shows of a graph: its producer, its operators, its inputs and outputs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.graphs.notes import operator_counts, without_empty
from ckptconv.formats.onnx.graph import subgraphs
from ckptconv.formats.onnx.tensors import DTYPE_BY_CODE, STRING
from ckptconv.io.protobuf import LEN, VARINT, signed

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.onnx.graph import Graph, Model, Node, Range
    from ckptconv.formats.onnx.wire import Window

_DEEPEST_TYPE = 16
_MAX_SHOWN_DIMS = 256
_TENSOR, _MAP, _SPARSE = 1, 5, 8
_HOLDERS = {4: "sequence", _MAP: "map", 9: "optional"}


def graph_facts(model: Model, graph: Graph, window: Window) -> dict[str, MetaNode]:
    """The facts about a model, in the order in which they are shown; what is empty is left out."""
    graphs = [inner for _, inner in subgraphs(graph)]
    bodies = [inner for body in model.functions.values() for _, inner in subgraphs(body)]
    operators = Counter(_operator(node) for inner in (*graphs, *bodies) for node in inner.nodes)
    weights = {header.name for header in graph.initializers}
    facts: dict[str, MetaNode] = {
        "name": graph.name,
        "ir_version": model.ir_version,
        "producer": " ".join(text for text in (model.texts.get(2), model.texts.get(3)) if text),
        "domain": model.texts.get(4, ""),
        "model_version": model.model_version,
        "opset": {domain or "ai.onnx": version for domain, version in model.opsets.items()},
        "inputs": [value for value in _values(graph.inputs, window) if value["name"] not in weights],
        "outputs": _values(graph.outputs, window),
        **operator_counts(operators),
        "subgraphs": len(graphs) - 1,
        "functions": list(model.functions),
    }
    return without_empty(facts)


def _operator(node: Node) -> str:
    return node.op if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op}"


def _values(ranges: list[Range], window: Window) -> list[dict[str, MetaNode]]:
    return [_value(begin, end, window) for begin, end in ranges]


def _value(start: int, stop: int, window: Window) -> dict[str, MetaNode]:
    """Parse a ValueInfoProto. Each dimension is a size, a name, or None if the file states neither."""
    value: dict[str, MetaNode] = {"name": "", "dtype": None, "shape": None}
    for number, begin, end in window.matching(start, stop, {1: LEN, 2: LEN}):
        if number == 1:
            value["name"] = window.text(begin, end)
        else:
            value["dtype"], value["shape"] = _type(begin, end, window, 0)
    return value


def _type(start: int, stop: int, window: Window, depth: int) -> tuple[str | None, MetaNode]:
    """Parse a TypeProto: the element type in words, and the shape."""
    if depth > _DEEPEST_TYPE:
        raise LimitError(f"types within types, more than {_DEEPEST_TYPE} deep")
    for number, begin, end in window.matching(start, stop, dict.fromkeys((_TENSOR, _SPARSE, *_HOLDERS), LEN)):
        if number in (_TENSOR, _SPARSE):
            dtype, shape = _tensor_type(begin, end, window)
            return (f"sparse {dtype}" if number == _SPARSE else dtype), shape
        place = {2 if number == _MAP else 1: LEN}
        inner = [_type(first, last, window, depth + 1)[0] for _, first, last in window.matching(begin, end, place)]
        return f"{_HOLDERS[number]} of {inner[0] if inner else None}", None
    return None, None


def _tensor_type(start: int, stop: int, window: Window) -> tuple[str | None, MetaNode]:
    dtype: str | None = None
    shape: list[MetaNode] | None = None
    for number, begin, end in window.matching(start, stop, {1: VARINT, 2: LEN}):
        if number == 1:
            dtype = _dtype_name(begin)
            continue
        shape = []
        for _, first, last in window.matching(begin, end, {1: LEN}):
            if len(shape) < _MAX_SHOWN_DIMS:
                shape.append(_dimension(first, last, window))
    return dtype, shape


def _dtype_name(code: int) -> str:
    if code == STRING:
        return "STRING"
    return DTYPE_BY_CODE[code].name if code in DTYPE_BY_CODE else f"type {code}"


def _dimension(start: int, stop: int, window: Window) -> MetaNode:
    size: MetaNode = None
    for number, begin, end in window.matching(start, stop, {1: VARINT, 2: LEN}):
        size = signed(begin) if number == 1 else window.text(begin, end)
    return size
