"""The constants of a Core ML program (MIL).

    Program       1 version  2* functions (1 key  2 Function)
    Function      2 opset  3* block_specializations (1 key: an opset  2 Block)
    Block         3* operations
    Operation     1 type  2* inputs (1 key  2 Argument: 1* Binding: 2 Value)  3* outputs (1 name  2 type)  4* blocks
                  5* attributes (1 key  2 Value)
    Value         2 type  3 immediateValue (1 TensorValue)  5 blobFileValue (1 fileName  2 offset)
    ValueType     1 tensorType: 1 dataType  2 rank  3* dimensions: 1 constant: 1 size
    TensorValue   one of 1 floats  2 ints  3 bools  4 strings  5 longInts  6 doubles (each: 1* values, packed)
                  7 bytes: 1 values

Of a ``const`` the value is the attribute ``val``; operators that are constants packed in some way (``constexpr_…``)
have several, as attributes or as inputs. Texts are options of operators, and no weights.

Source: coremltools/mlmodel/format/MIL.proto.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.coreml.model import bad, first_text
from ckptconv.io.limits import MAX_DEPTH, MAX_RANK, MAX_TENSORS
from ckptconv.io.protobuf import LEN, VARINT, signed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.coreml.model import Range
    from ckptconv.formats.graphs.names import GraphNames
    from ckptconv.io.protobuf import Wire

PACKED = "constexpr_"
"""How operators are called that are constants."""

MAX_FUNCTIONS, MAX_VALUES = 10_000, 10_000

STRING = 2
STRINGS = 4
"""The field of a TensorValue that has texts."""


@dataclass(slots=True)
class Constant:
    """A constant: its type by number, its shape, and where its values are: in a file, or in the message, in a field of
    a TensorValue.
    """

    name: str
    code: int
    shape: tuple[int, ...]
    file: str = ""
    offset: int = 0
    kind: int = 0
    place: Range | None = None


@dataclass(slots=True)
class Packed:
    """An operator that is a constant, packed: what it is called, its parts, and the shape of what comes out."""

    operator: str
    name: str
    shape: tuple[int, ...]
    parts: dict[str, Constant] = field(default_factory=dict)


@dataclass(slots=True)
class Program:
    """The constants of all functions, those that are packed, and how often there is which operator in them; who makes
    their names.
    """

    names: GraphNames
    constants: list[Constant] = field(default_factory=list)
    packed: list[Packed] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)


def read_program(wire: Wire, place: Range, scope: str, names: GraphNames) -> Program:
    """Walk the message. Raises CorruptFileError, LimitError."""
    program = Program(names)
    functions = [_entry(wire, begin, end) for begin, end in islice(_ranges(wire, place, 2), MAX_FUNCTIONS + 1)]
    if len(functions) > MAX_FUNCTIONS:
        raise LimitError(f"it has more than {MAX_FUNCTIONS:,} functions")
    for name, function in functions:
        if function is not None:
            prefix = scope if len(functions) == 1 else names.join(scope, name, ".")
            _function(wire, program, function, prefix)
    return program


def _ranges(wire: Wire, place: Range, wanted: int) -> Iterator[Range]:
    """The messages in a field that may come several times."""
    for _, begin, end in wire.known(*place, {wanted: LEN}):
        yield begin, end


def _entry(wire: Wire, start: int, stop: int) -> tuple[str, Range | None]:
    """Key and value of an entry of a map."""
    key, value = "", None
    for number, begin, end in wire.matching(start, stop, {1: LEN, 2: LEN}):
        if number == 1:
            key = wire.text(begin, end)
        else:
            value = begin, end
    return key, value


def _function(wire: Wire, program: Program, place: Range, scope: str) -> None:
    opset = next((wire.text(begin, end) for _, begin, end in wire.matching(*place, {2: LEN})), "")
    blocks = dict(_entry(wire, begin, end) for begin, end in _ranges(wire, place, 3))
    block = blocks.get(opset)
    if block is None:
        raise bad(f"a function has no block for its opset {opset!r}")
    _block(wire, program, block, scope, 0)


def _block(wire: Wire, program: Program, place: Range, scope: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LimitError(f"its blocks are more than {MAX_DEPTH} deep")
    for operation in _ranges(wire, place, 3):
        _operation(wire, program, operation, scope, depth)


def _operation(wire: Wire, program: Program, place: Range, scope: str, depth: int) -> None:
    operator, output, made = "", "", (0, 0)
    blocks: list[Range] = []
    values: list[tuple[str, Range]] = []
    for number, kind, begin, end in wire.fields(*place):
        if number > 5:
            continue
        wire.expect(number, kind, LEN)
        if number == 1:
            operator = wire.text(begin, end)
        elif number == 3:
            output, made = (output, made) if output else (first_text(wire, begin, end), (begin, end))
        elif number == 4:
            blocks.append((begin, end))
        else:
            key, value = _entry(wire, begin, end)
            found = [value] if number == 5 else list(_bound(wire, value)) if value else []
            values += [(key, one) for one in found if one]
            if len(values) > MAX_VALUES:
                raise LimitError(f"an operator has more than {MAX_VALUES:,} values")
    if operator != "const":
        program.operators[operator] += 1
    parts: dict[str, Constant] = {}
    for key, value in values:
        if operator == "const" and key != "val":
            continue
        name = (scope, output) if operator == "const" else (scope, output, ".", key)
        constant = _value(wire, value, program.names.join(*name))
        if constant is not None:
            parts[key] = constant
            program.constants.append(constant)
            if len(program.constants) > MAX_TENSORS:
                raise LimitError(f"it has more than {MAX_TENSORS:,} constants")
    if operator.startswith(PACKED):
        program.packed.append(Packed(operator, program.names.join(scope, output), _result(wire, made), parts))
    for block in blocks:
        _block(wire, program, block, scope, depth + 1)


def _result(wire: Wire, place: Range) -> tuple[int, ...]:
    """The shape of what an operator makes, as it says it."""
    found = Constant("", STRING, ())
    for kind in _ranges(wire, place, 2):
        for tensor in _ranges(wire, kind, 1):
            _type(wire, tensor, found)
    return found.shape


def _bound(wire: Wire, argument: Range) -> Iterator[Range]:
    """The values that stand in an argument by themselves, not by the name of another's output."""
    for binding in _ranges(wire, argument, 1):
        yield from _ranges(wire, binding, 2)


def _value(wire: Wire, place: Range, name: str) -> Constant | None:
    """A constant that is a tensor of numbers; None of texts, lists and the like."""
    found = Constant(name, STRING, ())
    for number, begin, end in wire.known(*place, {2: LEN, 3: LEN, 5: LEN}):
        if number == 5:
            _blob(wire, begin, end, found)
            continue
        for tensor in _ranges(wire, (begin, end), 1):
            (_type if number == 2 else _immediate)(wire, tensor, found)
    if found.code == STRING or found.kind == STRINGS or not (found.file or found.place):
        return None
    return found


def _type(wire: Wire, place: Range, found: Constant) -> None:
    sizes: list[int] = []
    for number, begin, end in wire.known(*place, {1: VARINT, 3: LEN}):
        if number == 1:
            found.code = begin
        else:
            sizes.append(_size(wire, (begin, end)))
        if len(sizes) > MAX_RANK:
            raise LimitError(f"{found.name!r} has more than {MAX_RANK} dimensions")
    found.shape = tuple(sizes)


def _size(wire: Wire, dimension: Range) -> int:
    for constant in _ranges(wire, dimension, 1):
        size = next((begin for _, begin, _ in wire.matching(*constant, {1: VARINT})), 0)
        if signed(size) < 0:
            raise bad("a dimension is negative")
        return size
    raise bad("a constant has an open dimension")


def _immediate(wire: Wire, place: Range, found: Constant) -> None:
    for number, kind, begin, end in wire.fields(*place):
        wire.expect(number, kind, LEN)
        found.kind, found.place = number, (begin, begin)
        for _, start, stop in wire.known(begin, end, {} if number == STRINGS else {1: LEN}):
            if found.place[0] != found.place[1]:
                raise bad(f"the values of {found.name!r} come in pieces")
            found.place = start, stop


def _blob(wire: Wire, start: int, stop: int, found: Constant) -> None:
    for number, begin, end in wire.matching(start, stop, {1: LEN, 2: VARINT}):
        if number == 1:
            found.file = wire.text(begin, end)
        else:
            found.offset = begin
