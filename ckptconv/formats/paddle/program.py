"""The parameters of a PaddlePaddle program: their names, types and shapes.

    NAME.json       {"base_code": {"magic": "pir", …}, "program": {"regions": [{"blocks": [{"ops": [OP, …]}]}]}}
        OP          of a parameter {"#": "p", "A": […, …, …, NAME], "O": {"TT": TYPE, …}, …}
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
from ckptconv.formats.paddle.variable import DTYPES, NAMED_DTYPES, OPEN, Variable, bad, description
from ckptconv.io.limits import MAX_INDEX_BYTES, MAX_RANK, MAX_TENSORS
from ckptconv.io.protobuf import LEN, VARINT, Wire

if TYPE_CHECKING:
    from ckptconv.io.source import Source

DENSE = 7
"""``VarType.Type`` of a tensor."""

MAX_DESC = 11 * (MAX_RANK + 2)
"""Bytes of a TensorDesc: a tag and a varint of ten bytes for each size."""


def variables_in_json(source: Source) -> list[Variable]:
    """The parameters of a program in JSON. Raises CorruptFileError, LimitError."""
    said = strict_json.object_of(source.read_all(MAX_INDEX_BYTES), "the program", hint=COPY_ALL_AGAIN)
    try:
        operators = said["program"]["regions"][0]["blocks"][0]["ops"]
        found = [_parameter(one) for one in operators if one["#"] == "p"]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise CorruptFileError("this is not a PaddlePaddle program", hint=COPY_ALL_AGAIN) from error
    return _checked(found)


def _parameter(operator: Any) -> Variable:
    kind, sizes = operator["O"]["TT"]["D"][:2]
    if not isinstance(sizes, list) or any(type(size) is not int for size in sizes):
        raise TypeError("sizes that are none")
    return Variable(operator["A"][3], NAMED_DTYPES.get(kind["#"].rpartition(".")[2]), tuple(sizes))


def variables_in_message(source: Source) -> list[Variable]:
    """The persistable tensors of a program in protobuf. Raises CorruptFileError, LimitError."""
    wire, found = Wire(source, bad), list[Variable]()
    for _, begin, end in wire.known(0, source.size, {1: LEN}):
        for _, start, stop in wire.matching(begin, end, {3: LEN}):
            if variable := _variable(wire, start, stop):
                found.append(variable)
    return _checked(found)


def _variable(wire: Wire, start: int, stop: int) -> Variable | None:
    """A variable; None of one that is computed, or no tensor."""
    name, place, kept = "", (0, 0), False
    for number, begin, end in wire.matching(start, stop, {1: LEN, 2: LEN, 3: VARINT}):
        if number == 1:
            name = wire.text(begin, end)
        elif number == 2:
            place = begin, end
        else:
            kept = begin == 1
    return _tensor(wire, name, *place) if kept and name else None


def _tensor(wire: Wire, name: str, start: int, stop: int) -> Variable | None:
    dense, described = False, (0, 0)
    for number, begin, end in wire.matching(start, stop, {1: VARINT, 3: LEN}):
        if number == 1:
            dense = begin == DENSE
        else:
            described = next(((first, last) for _, first, last in wire.matching(begin, end, {1: LEN})), described)
    if not dense:
        return None
    code, shape = description(wire.read(*described, MAX_DESC), f"the variable {name!r}")
    return Variable(name, DTYPES.get(code), shape)


def _checked(found: list[Variable]) -> list[Variable]:
    if len(found) > MAX_TENSORS:
        raise LimitError(f"the program has more than {MAX_TENSORS:,} parameters")
    names = [one.name for one in found if isinstance(one.name, str)]
    if len(names) != len(found) or len(set(names)) != len(names):
        raise CorruptFileError("the program has a parameter without a name, or two of one", hint=COPY_ALL_AGAIN)
    for one in found:
        if len(one.shape) > MAX_RANK or min(one.shape, default=0) < OPEN:
            raise bad(f"the variable {one.name!r} has the shape {list(one.shape[:8])}")
    return found
