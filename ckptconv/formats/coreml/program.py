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

The value of a ``const`` is its attribute ``val``. Operators for packed constants (``constexpr_…``) have several values,
as attributes or as inputs. Texts are options of operators, not weights.

Source: coremltools/mlmodel/format/MIL.proto.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.coreml.model import bad, name_of_message
from ckptconv.io.limits import MAX_DEPTH, MAX_RANK, MAX_TENSORS
from ckptconv.io.protobuf import LEN, VARINT, signed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.coreml.model import Range
    from ckptconv.formats.graphs.names import GraphNames
    from ckptconv.io.protobuf import Wire

PACKED = "constexpr_"
"""The prefix of operators that are packed constants."""

MAX_FUNCTIONS, MAX_VALUES = 10_000, 10_000

STRING = 2
STRINGS = 4
"""The field of a TensorValue with texts."""


@dataclass(slots=True)
class Constant:
    """A constant of the program, whose values are either in a blob file or in the message.

    code:         the element type.
    file, offset: where the values are in a blob file.
    kind, place:  the field of a TensorValue with the values, and where they are in the message.
    """

    name: str
    code: int
    shape: tuple[int, ...]
    file: str = ""
    offset: int = 0
    kind: int = 0
    place: Range | None = None


@dataclass(slots=True)
class PackedConstant:
    """An operator that unpacks a constant.

    name:  of its output.
    shape: of its output.
    parts: the constants that it takes, by the names of its inputs or attributes.
    """

    operator: str
    name: str
    shape: tuple[int, ...]
    parts: dict[str, Constant] = field(default_factory=dict)


@dataclass(slots=True)
class Program:
    """The constants of all functions; `operators` counts the operators, `names` makes names for the constants."""

    names: GraphNames
    constants: list[Constant] = field(default_factory=list)
    packed: list[PackedConstant] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)


def read_program(wire: Wire, place: Range, scope: str, names: GraphNames) -> Program:
    """Walk the message. Raises CorruptFileError, LimitError."""
    program = Program(names)
    functions = [_map_entry(wire, begin, end) for begin, end in islice(_messages(wire, place, 2), MAX_FUNCTIONS + 1)]
    if len(functions) > MAX_FUNCTIONS:
        raise LimitError(f"it has more than {MAX_FUNCTIONS:,} functions")
    for name, function in functions:
        if function is not None:
            prefix = scope if len(functions) == 1 else names.join(scope, name, ".")
            _read_function(wire, program, function, prefix)
    return program


def _messages(wire: Wire, place: Range, field_number: int) -> Iterator[Range]:
    """The messages in a repeated field."""
    for _, begin, end in wire.known(*place, {field_number: LEN}):
        yield begin, end


def _map_entry(wire: Wire, start: int, stop: int) -> tuple[str, Range | None]:
    """The key and value of a map's entry."""
    key, value = "", None
    for number, begin, end in wire.matching(start, stop, {1: LEN, 2: LEN}):
        if number == 1:
            key = wire.text(begin, end)
        else:
            value = begin, end
    return key, value


def _read_function(wire: Wire, program: Program, place: Range, scope: str) -> None:
    opset = next((wire.text(begin, end) for _, begin, end in wire.matching(*place, {2: LEN})), "")
    blocks = dict(_map_entry(wire, begin, end) for begin, end in _messages(wire, place, 3))
    block = blocks.get(opset)
    if block is None:
        raise bad(f"a function has no block for its opset {opset!r}")
    _read_block(wire, program, block, scope, 0)


def _read_block(wire: Wire, program: Program, place: Range, scope: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LimitError(f"its blocks are more than {MAX_DEPTH} deep")
    for operation in _messages(wire, place, 3):
        _read_operation(wire, program, operation, scope, depth)


@dataclass(slots=True)
class _Operation:
    """An Operation: its output's name and where that is described, its blocks, and its values by key."""

    operator: str = ""
    output: str = ""
    output_place: Range = (0, 0)
    blocks: list[Range] = field(default_factory=list)
    values: list[tuple[str, Range]] = field(default_factory=list)


def _read_operation(wire: Wire, program: Program, place: Range, scope: str, depth: int) -> None:
    operation = _parse_operation(wire, place)
    operator, output = operation.operator, operation.output
    if operator != "const":
        program.operators[operator] += 1
    parts: dict[str, Constant] = {}
    for key, value in operation.values:
        if operator == "const" and key != "val":
            continue
        name = (scope, output) if operator == "const" else (scope, output, ".", key)
        constant = _read_value(wire, value, program.names.join(*name))
        if constant is not None:
            parts[key] = constant
            program.constants.append(constant)
            if len(program.constants) > MAX_TENSORS:
                raise LimitError(f"it has more than {MAX_TENSORS:,} constants")
    if operator.startswith(PACKED):
        shape = _output_shape(wire, operation.output_place)
        program.packed.append(PackedConstant(operator, program.names.join(scope, output), shape, parts))
    for block in operation.blocks:
        _read_block(wire, program, block, scope, depth + 1)


def _parse_operation(wire: Wire, place: Range) -> _Operation:
    operation = _Operation()
    for number, kind, begin, end in wire.fields(*place):
        if number > 5:
            continue
        wire.expect(number, kind, LEN)
        if number == 1:
            operation.operator = wire.text(begin, end)
        elif number == 3:
            if not operation.output:
                operation.output, operation.output_place = name_of_message(wire, begin, end), (begin, end)
        elif number == 4:
            operation.blocks.append((begin, end))
        else:
            key, value = _map_entry(wire, begin, end)
            if value and number == 5:
                operation.values.append((key, value))
            elif value:
                operation.values += [(key, bound) for bound in _bound_values(wire, value)]
            if len(operation.values) > MAX_VALUES:
                raise LimitError(f"an operator has more than {MAX_VALUES:,} values")
    return operation


def _output_shape(wire: Wire, place: Range) -> tuple[int, ...]:
    """The shape that an operation states for its output."""
    output = Constant("", STRING, ())
    for value_type in _messages(wire, place, 2):
        for tensor_type in _messages(wire, value_type, 1):
            _read_type(wire, tensor_type, output)
    return output.shape


def _bound_values(wire: Wire, argument: Range) -> Iterator[Range]:
    """The values in an argument that are given directly, not by the name of another operation's output."""
    for binding in _messages(wire, argument, 1):
        yield from _messages(wire, binding, 2)


def _read_value(wire: Wire, place: Range, name: str) -> Constant | None:
    """Read a constant; None if it is not a tensor of numbers, but a text, a list or the like."""
    constant = Constant(name, STRING, ())
    for number, begin, end in wire.known(*place, {2: LEN, 3: LEN, 5: LEN}):
        if number == 5:
            _read_blob_value(wire, begin, end, constant)
            continue
        for tensor in _messages(wire, (begin, end), 1):
            if number == 2:
                _read_type(wire, tensor, constant)
            else:
                _read_immediate_value(wire, tensor, constant)
    if constant.code == STRING or constant.kind == STRINGS or not (constant.file or constant.place):
        return None
    return constant


def _read_type(wire: Wire, place: Range, constant: Constant) -> None:
    sizes: list[int] = []
    for number, begin, end in wire.known(*place, {1: VARINT, 3: LEN}):
        if number == 1:
            constant.code = begin
        else:
            sizes.append(_read_dimension(wire, (begin, end)))
        if len(sizes) > MAX_RANK:
            raise LimitError(f"{constant.name!r} has more than {MAX_RANK} dimensions")
    constant.shape = tuple(sizes)


def _read_dimension(wire: Wire, dimension: Range) -> int:
    for constant in _messages(wire, dimension, 1):
        size = next((begin for _, begin, _ in wire.matching(*constant, {1: VARINT})), 0)
        if signed(size) < 0:
            raise bad("a dimension is negative")
        return size
    raise bad("a constant has an open dimension")


def _read_immediate_value(wire: Wire, place: Range, constant: Constant) -> None:
    for number, kind, begin, end in wire.fields(*place):
        wire.expect(number, kind, LEN)
        constant.kind, constant.place = number, (begin, begin)
        for _, start, stop in wire.known(begin, end, {} if number == STRINGS else {1: LEN}):
            if constant.place[0] != constant.place[1]:
                raise bad(f"the values of {constant.name!r} come in pieces")
            constant.place = start, stop


def _read_blob_value(wire: Wire, start: int, stop: int, constant: Constant) -> None:
    for number, begin, end in wire.matching(start, stop, {1: LEN, 2: VARINT}):
        if number == 1:
            constant.file = wire.text(begin, end)
        else:
            constant.offset = begin
