"""FlatBuffers, and TensorFlow Lite's models, assembled by hand."""

from __future__ import annotations

from dataclasses import dataclass
from struct import calcsize, pack
from typing import Any

Number = tuple[str, int | float]
"""A `struct` code, and a number."""

Table = dict[int, Any]
"""Fields by number: a Number, bytes (text, or a vector of bytes), a tuple of a width and bytes (a vector of such
elements), another Table, a list of Tables, or one table Repeated.
"""


@dataclass(frozen=True)
class Repeated:
    """A vector of `count` offsets to one and the same table."""

    table: Table
    count: int


def flatbuffer(root: Table, identifier: bytes = b"TFL3") -> bytes:
    """The file of a root table."""
    out = bytearray(4) + identifier
    out[:4] = pack("<I", _table(out, root))
    return bytes(out)


def _table(out: bytearray, fields: Table) -> int:
    """Append a vtable, its table, and everything that the table refers to. Returns the table's position."""
    offsets, inline, pointers = [0] * (max(fields, default=-1) + 1), bytearray(4), []
    for number, value in fields.items():
        offsets[number] = len(inline)
        if isinstance(value, tuple) and isinstance(value[0], str):
            inline += pack("<" + value[0], value[1])
        else:
            pointers.append((len(inline), value))
            inline += bytes(4)
    vtable = len(out)
    out += pack(f"<{2 + len(offsets)}H", 4 + 2 * len(offsets), len(inline), *offsets)
    at = len(out)
    out += pack("<i", at - vtable) + inline[4:]
    for place, value in pointers:
        _point(out, at + place, _target(out, value))
    return at


def _point(out: bytearray, place: int, target: int) -> None:
    out[place : place + 4] = pack("<I", target - place)


def _target(out: bytearray, value: Any) -> int:
    if isinstance(value, dict):
        return _table(out, value)
    at = len(out)
    if isinstance(value, list):
        out += pack("<I", len(value)) + bytes(4 * len(value))
        for i, one in enumerate(value):
            _point(out, at + 4 + 4 * i, _table(out, one))
        return at
    if isinstance(value, Repeated):
        out += pack("<I", value.count) + bytes(4 * value.count)
        end = _table(out, value.table)
        for i in range(value.count):
            _point(out, at + 4 + 4 * i, end)
        return at
    width, data = value if isinstance(value, tuple) else (1, value)
    out += pack("<I", len(data) // width) + data + b"\0"
    return at


def numbers(code: str, *values: float) -> tuple[int, bytes]:
    """The value of a field that is a vector of numbers."""
    return calcsize("<" + code), pack(f"<{len(values)}{code}", *values)


def tensor(name: bytes, shape: tuple[int, ...], kind: int, buffer: int, **more: Any) -> Table:
    """A tensor; `more` are further fields, by name."""
    fields = {"quantization": 4, "variable": 5, "sparsity": 6, "external": 10}
    made: Table = {0: numbers("i", *shape), 1: ("b", kind), 2: ("I", buffer), 3: name}
    return made | {fields[key]: value for key, value in more.items()}


def model(tensors: list[Table], *buffers: bytes | Table, **more: Any) -> Table:
    """A model of one graph, whose buffers are numbered from 1; `more` are further fields, by name."""
    fields = {"version": 0, "codes": 1, "graphs": 2, "description": 3, "metadata": 6, "signatures": 7}
    stored = [{}, *({0: one} if isinstance(one, bytes) else one for one in buffers)]
    made: Table = {0: ("I", 3), 2: [{0: tensors, 4: b"main"}], 4: stored}
    return made | {fields[key]: value for key, value in more.items()}


def quantized(scales: list[float], points: list[int], axis: int = 0) -> Table:
    """Quantization parameters."""
    return {2: numbers("f", *scales), 3: numbers("q", *points), 6: ("i", axis)}


def sparsity(order: tuple[int, ...], *levels: Table, blocks: tuple[int, ...] = ()) -> Table:
    """The sparsity of a tensor: the order of its dimensions, its levels, and which dimensions have blocks."""
    return {0: numbers("i", *order), 2: list(levels)} | ({1: numbers("i", *blocks)} if blocks else {})


def dense(size: int) -> Table:
    """A dense dimension."""
    return {1: ("i", size)}


def sparse(segments: list[int], indices: list[int], code: str = "i") -> Table:
    """A CSR dimension, with these segments and coordinates."""
    kind = {"i": 1, "H": 2, "B": 3}[code]
    made = {0: ("b", 1), 2: ("B", kind), 3: {0: numbers(code, *segments)}, 4: ("B", kind)}
    return made | {5: {0: numbers(code, *indices)}}
