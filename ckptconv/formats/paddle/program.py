"""The names of the parameters of a PaddlePaddle program.

    NAME.json       {"base_code": {"magic": "pir", …}, "program": {"regions": [{"blocks": [{"ops": [OP, …]}]}]}}
        OP          of a parameter {"#": "p", "A": […, …, …, NAME], …}
    NAME.pdmodel    ProgramDesc   1* blocks
                    BlockDesc     3* vars
                    VarDesc       1 name  2 type: 1 type (7 is a tensor)  3 persistable

Sources: paddle/fluid/pir/serialize_deserialize (ir_serialize.cc, schema.h); paddle/phi/core/framework/framework.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.errors import CorruptFileError, LimitError
from ckptconv.io.limits import MAX_INDEX_BYTES, MAX_TENSORS
from ckptconv.io.protobuf import LEN, VARINT, Wire

if TYPE_CHECKING:
    from ckptconv.io.source import Source

DENSE = 7
"""``VarType.Type`` of a tensor."""

_HINT = "copy the model again from where it came, all of its files"


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the format."""
    return CorruptFileError(f"the model of PaddlePaddle's is invalid: {what}")


def names_in_json(source: Source) -> list[str]:
    """The parameters of a program in JSON. Raises CorruptFileError, LimitError."""
    said = strict_json.object_of(source.read_all(MAX_INDEX_BYTES), "the program", hint=_HINT)
    try:
        operators = said["program"]["regions"][0]["blocks"][0]["ops"]
        names = [one["A"][3] for one in operators if one["#"] == "p"]
    except (KeyError, IndexError, TypeError) as error:
        raise CorruptFileError("the program is none of PaddlePaddle's", hint=_HINT) from error
    return _checked(names)


def names_in_message(source: Source) -> list[str]:
    """The persistable tensors of a program in protobuf. Raises CorruptFileError, LimitError."""
    wire, names = Wire(source, bad), list[object]()
    for number, kind, begin, end in wire.fields(0, source.size):
        if number == 1:
            wire.expect(number, kind, LEN)
            for inner, wanted, start, stop in wire.fields(begin, end):
                if (inner, wanted) == (3, LEN) and (name := _variable(wire, start, stop)):
                    names.append(name)
    return _checked(names)


def _variable(wire: Wire, start: int, stop: int) -> str:
    """The name of a variable; "" of one that is computed, or no tensor."""
    name, dense, kept = "", False, False
    for number, kind, begin, end in wire.fields(start, stop):
        if (number, kind) == (1, LEN):
            name = wire.text(begin, end)
        elif (number, kind) == (2, LEN):
            dense = any(n == 1 and k == VARINT and value == DENSE for n, k, value, _ in wire.fields(begin, end))
        elif (number, kind) == (3, VARINT):
            kept = begin == 1
    return name if dense and kept else ""


def _checked(names: list[object]) -> list[str]:
    if len(names) > MAX_TENSORS:
        raise LimitError(f"the program has more than {MAX_TENSORS:,} parameters")
    found = [name for name in names if isinstance(name, str)]
    if len(found) != len(names) or len(set(found)) != len(found):
        raise CorruptFileError("the program has a parameter without a name, or two of one", hint=_HINT)
    return found
