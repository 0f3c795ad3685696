"""What `inspect` says of a graph: who made it, which operators it uses, what goes in and comes out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.graphs.notes import all_said, counted
from ckptconv.formats.onnx.graph import subgraphs
from ckptconv.formats.onnx.tensors import DTYPE_BY_CODE, STRING
from ckptconv.io.protobuf import LEN, VARINT, signed

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.onnx.graph import Graph, Model, Range
    from ckptconv.formats.onnx.wire import Window

_DEEPEST_TYPE = 16
_MAX_SHOWN_DIMS = 256
_TENSOR, _SEQUENCE, _MAP, _SPARSE, _OPTIONAL = 1, 4, 5, 8, 9


def facts(model: Model, graph: Graph, window: Window) -> dict[str, MetaNode]:
    """The model's passport, as strings and numbers."""
    graphs = [inner for _, inner in subgraphs(graph)]
    bodies = [inner for body in model.functions.values() for _, inner in subgraphs(body)]
    operators = Counter(
        f"{node.domain}::{node.op}" if node.domain not in ("", "ai.onnx") else node.op
        for one in (*graphs, *bodies)
        for node in one.nodes
    )
    weights = {header.name for header in graph.initializers}
    found: dict[str, MetaNode] = {
        "name": graph.name,
        "ir_version": model.ir_version,
        "producer": " ".join(text for text in (model.texts.get(2), model.texts.get(3)) if text),
        "domain": model.texts.get(4, ""),
        "model_version": model.model_version,
        "opset": {domain or "ai.onnx": version for domain, version in model.opsets.items()},
        "inputs": [value for value in _values(graph.inputs, window) if value["name"] not in weights],
        "outputs": _values(graph.outputs, window),
        **counted(operators),
        "subgraphs": len(graphs) - 1,
        "functions": list(model.functions),
    }
    return all_said(found)


def _values(ranges: list[Range], window: Window) -> list[dict[str, MetaNode]]:
    return [_value(begin, end, window) for begin, end in ranges]


def _value(start: int, stop: int, window: Window) -> dict[str, MetaNode]:
    """A ValueInfoProto; dimensions are sizes, names, or None where nothing is said."""
    value: dict[str, MetaNode] = {"name": "", "dtype": None, "shape": None}
    for number, wire, begin, end in window.fields(start, stop):
        if number == 1 and wire == LEN:
            value["name"] = window.text(begin, end)
        elif number == 2 and wire == LEN:
            value["dtype"], value["shape"] = _type(begin, end, window, 0)
    return value


def _type(start: int, stop: int, window: Window, depth: int) -> tuple[str | None, MetaNode]:
    if depth > _DEEPEST_TYPE:
        raise LimitError(f"types within types, more than {_DEEPEST_TYPE} deep")
    for number, wire, begin, end in window.fields(start, stop):
        if wire != LEN:
            continue
        if number in (_TENSOR, _SPARSE):
            dtype, shape = _tensor_type(begin, end, window)
            return (f"sparse {dtype}" if number == _SPARSE else dtype), shape
        if number in (_SEQUENCE, _MAP, _OPTIONAL):
            kind = {_SEQUENCE: "sequence", _MAP: "map", _OPTIONAL: "optional"}[number]
            inner = [
                _type(first, last, window, depth + 1)[0]
                for field, inner_wire, first, last in window.fields(begin, end)
                if inner_wire == LEN and field == (2 if number == _MAP else 1)
            ]
            return f"{kind} of {inner[0] if inner else None}", None
    return None, None


def _tensor_type(start: int, stop: int, window: Window) -> tuple[str | None, MetaNode]:
    dtype: str | None = None
    shape: list[MetaNode] | None = None
    for number, wire, begin, end in window.fields(start, stop):
        if number == 1 and wire == VARINT:
            known = DTYPE_BY_CODE.get(begin)
            dtype = known.name if known else "STRING" if begin == STRING else f"type {begin}"
        elif number == 2 and wire == LEN:
            shape = []
            for field, field_wire, first, last in window.fields(begin, end):
                if field == 1 and field_wire == LEN and len(shape) < _MAX_SHOWN_DIMS:
                    shape.append(_dimension(first, last, window))
    return dtype, shape


def _dimension(start: int, stop: int, window: Window) -> MetaNode:
    size: MetaNode = None
    for number, wire, begin, end in window.fields(start, stop):
        if number == 1 and wire == VARINT:
            size = signed(begin)
        elif number == 2 and wire == LEN:
            size = window.text(begin, end)
    return size
