"""What `inspect` shows of a model's graph: its operators, inputs, outputs and signatures."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.formats.graphs.notes import operator_counts, without_empty
from ckptconv.formats.tflite.flatbuffer import I8, I32, U32, U64, Table, Tables, Vector, bad
from ckptconv.formats.tflite.schema import (
    CUSTOM_OPERATOR,
    DTYPES,
    OPERATORS,
    OTHERS,
    STRING,
    VERSION,
    Code,
    Model,
    Operator,
    Pair,
    Signature,
    SubGraph,
    Tensor,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptconv.core.metadata import MetaNode

_FLEX = "Flex"
"""The prefix of the names of TensorFlow's own operators."""


def graph_facts(model: Table, graphs: list[Table], tensors: list[Tables]) -> dict[str, MetaNode]:
    """The facts about a model, in the order in which they are shown. `tensors`: of each graph."""
    names = [_operator_name(code) for code in model.tables(Model.CODES)]
    operators = Counter(
        _name_of_operator(operator, names) for graph in graphs for operator in graph.tables(SubGraph.OPERATORS)
    )
    main = graphs[0]
    facts: dict[str, MetaNode] = {
        "name": main.text(SubGraph.NAME),
        "version": VERSION,
        "inputs": _values(main.ints(SubGraph.INPUTS), tensors[0]),
        "outputs": _values(main.ints(SubGraph.OUTPUTS), tensors[0]),
        **operator_counts(operators),
        "subgraphs": len(graphs) - 1,
        "signatures": [_signature(table, tensors) for table in model.tables(Model.SIGNATURES)],
    }
    return without_empty(facts)


def custom_options(model: Table, graphs: list[Table]) -> Iterator[Vector]:
    """The options of TensorFlow's own operators, which contain the operators' true names, whatever their code says."""
    flex = {i for i, code in enumerate(model.tables(Model.CODES)) if code.text(Code.CUSTOM).startswith(_FLEX)}
    for graph in graphs if flex else ():
        for operator in graph.tables(SubGraph.OPERATORS):
            if operator.number(Operator.CODE, U32) in flex:
                if options := operator.vector(Operator.OPTIONS, 1):
                    yield options
                if size := operator.number(Operator.FAR_SIZE, U64):
                    yield Vector(operator.number(Operator.FAR, U64), size, 1)


def _operator_name(code: Table) -> str:
    """The name for an operator code. Numbers past 127 are in the second field; the first then has a smaller number."""
    number = max(code.number(Code.SHORT, I8), code.number(Code.LONG, I32))
    if number == CUSTOM_OPERATOR:
        return f"custom::{code.text(Code.CUSTOM)}"
    return OPERATORS[number] if 0 <= number < len(OPERATORS) else f"operator {number}"


def _name_of_operator(operator: Table, names: list[str]) -> str:
    index = operator.number(0, U32)
    if index >= len(names):
        raise bad(f"an operator has the code {index:,} of {len(names):,}")
    return names[index]


def _values(numbers: Iterable[int], tensors: Tables) -> list[dict[str, MetaNode]]:
    return [_value(tensor_at(tensors, number)) for number in numbers if number >= 0]  # -1: an optional one, left out


def tensor_at(tensors: Tables, number: int) -> Table:
    """The tensor with this number. Raises CorruptFileError if there is none."""
    if not 0 <= number < len(tensors):
        raise bad(f"it speaks of the tensor {number:,} of {len(tensors):,}")
    return tensors[number]


def _value(tensor: Table) -> dict[str, MetaNode]:
    """The name, type and shape of a tensor; open dimensions are None."""
    dtype = _dtype_name(tensor.number(Tensor.TYPE, I8))
    shape = tensor.ints(Tensor.SIGNATURE) or tensor.ints(Tensor.SHAPE)
    return {"name": tensor.text(Tensor.NAME), "dtype": dtype, "shape": [None if n < 0 else n for n in shape]}


def _dtype_name(code: int) -> str:
    if code in DTYPES:
        return DTYPES[code].name
    return "STRING" if code == STRING else OTHERS.get(code, f"type {code}")


def _signature(table: Table, tensors: list[Tables]) -> dict[str, MetaNode]:
    number = table.number(Signature.SUBGRAPH, U32)
    if number >= len(tensors):
        raise bad(f"a signature is of the subgraph {number:,} of {len(tensors):,}")
    return {
        "name": table.text(Signature.KEY),
        "inputs": _pairs(table.tables(Signature.INPUTS), tensors[number]),
        "outputs": _pairs(table.tables(Signature.OUTPUTS), tensors[number]),
    }


def _pairs(pairs: Tables, tensors: Tables) -> dict[str, MetaNode]:
    """The signature's name for each tensor, and the graph's name."""
    return {pair.text(Pair.NAME): tensor_at(tensors, pair.number(Pair.NUMBER, U32)).text(Tensor.NAME) for pair in pairs}
