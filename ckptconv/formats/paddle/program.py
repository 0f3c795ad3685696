"""The parameters of a PaddlePaddle program: their names, types and shapes.

    NAME.json       {"base_code": {"magic": "pir", …}, "program": {"regions": [{"blocks": [{"ops": [OP, …]}]}]}}
        OP          for a parameter: {"#": "p", "A": […, …, …, NAME], "O": {"TT": TYPE, …}, …}
        TYPE        {"#": "0.t_dtensor", "D": [{"#": "0.t_f32"}, [size, …], …]}
    NAME.pdmodel    ProgramDesc   1* blocks
                    BlockDesc     3* vars
                    VarDesc       1 name  2 type  3 persistable
                    VarType       1 type (7 is a tensor)  3 of a tensor: 1 TensorDesc (`variable`)

Sources: paddle/fluid/pir/serialize_deserialize (ir_serialize.cc, schema.h); paddle/phi/core/framework/framework.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, LimitError
from ckptconv.formats.paddle.variable import DTYPES, NAMED_DTYPES, OPEN, Variable, bad, parse_description
from ckptconv.io.limits import MAX_INDEX_BYTES, MAX_RANK, MAX_TENSORS
from ckptconv.io.protobuf import LEN, VARINT, Wire

if TYPE_CHECKING:
    from ckptconv.io.source import Source

DENSE = 7
"""The ``VarType.Type`` of tensors."""

MAX_DESC = 11 * (MAX_RANK + 2)
"""The most bytes of a TensorDesc: for each size, a tag and a varint of ten bytes."""


def variables_in_json(source: Source) -> list[Variable]:
    """Read the parameters of a JSON program. Raises CorruptFileError, LimitError."""
    document = strict_json.object_of(source.read_all(MAX_INDEX_BYTES), "the program", hint=COPY_ALL_AGAIN)
    try:
        operators = document["program"]["regions"][0]["blocks"][0]["ops"]
        variables = [_parse_parameter(operator) for operator in operators if operator["#"] == "p"]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise CorruptFileError("this is not a PaddlePaddle program", hint=COPY_ALL_AGAIN) from error
    return _check(variables)


def _parse_parameter(operator: Any) -> Variable:
    kind, sizes = operator["O"]["TT"]["D"][:2]
    if not isinstance(sizes, list) or any(type(size) is not int for size in sizes):
        raise TypeError("not sizes")
    return Variable(operator["A"][3], NAMED_DTYPES.get(kind["#"].rpartition(".")[2]), tuple(sizes))


def variables_in_message(source: Source) -> list[Variable]:
    """Read the persistable tensors of a protobuf program. Raises CorruptFileError, LimitError."""
    wire, variables = Wire(source, bad), list[Variable]()
    for _, begin, end in wire.known(0, source.size, {1: LEN}):
        for _, start, stop in wire.matching(begin, end, {3: LEN}):
            if variable := _parse_variable(wire, start, stop):
                variables.append(variable)
    return _check(variables)


def _parse_variable(wire: Wire, start: int, stop: int) -> Variable | None:
    """Parse a VarDesc; None if it is computed, or not a tensor."""
    name, var_type, is_persistable = "", (0, 0), False
    for number, begin, end in wire.matching(start, stop, {1: LEN, 2: LEN, 3: VARINT}):
        if number == 1:
            name = wire.text(begin, end)
        elif number == 2:
            var_type = begin, end
        else:
            is_persistable = begin == 1
    return _parse_type(wire, name, *var_type) if is_persistable and name else None


def _parse_type(wire: Wire, name: str, start: int, stop: int) -> Variable | None:
    """Parse a VarType; None if it is not a tensor's."""
    is_dense, tensor_desc = False, (0, 0)
    for number, begin, end in wire.matching(start, stop, {1: VARINT, 3: LEN}):
        if number == 1:
            is_dense = begin == DENSE
        else:
            tensor_desc = next(((first, last) for _, first, last in wire.matching(begin, end, {1: LEN})), tensor_desc)
    if not is_dense:
        return None
    code, shape = parse_description(wire.read(*tensor_desc, MAX_DESC), f"the variable {name!r}")
    return Variable(name, DTYPES.get(code), shape)


def _check(variables: list[Variable]) -> list[Variable]:
    if len(variables) > MAX_TENSORS:
        raise LimitError(f"the program has more than {MAX_TENSORS:,} parameters")
    names = [variable.name for variable in variables if isinstance(variable.name, str)]
    if len(names) != len(variables) or len(set(names)) != len(names):
        raise CorruptFileError("the program has a parameter without a name, or two of one", hint=COPY_ALL_AGAIN)
    for variable in variables:
        if len(variable.shape) > MAX_RANK or min(variable.shape, default=0) < OPEN:
            raise bad(f"the variable {variable.name!r} has the shape {list(variable.shape[:8])}")
    return variables
