"""Where every byte of an ONNX file goes, with the tensors' bytes left out.

A protobuf message may have its fields in any order, so the file is written as

    the model's fields but the graph
    tag and length of the graph, and its fields but the initializers that are filled
    for each of those: tag and length, its name, type and dimensions, then tag and length of its raw_data, and the bytes

All lengths are known before the first byte of a tensor is read. External data replaces the last part by a reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto, TensorProto

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_LEN = 2

MAX_MESSAGE = (1 << 31) - 1
"""Bytes of a protobuf message that its libraries read."""


@dataclass(frozen=True, slots=True)
class External:
    """Where a tensor's bytes lie in a file beside the model."""

    location: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The file without its tensors: what is written where, where each embedded tensor's bytes go, and its size."""

    pieces: Sequence[tuple[int, bytes]]
    offsets: Mapping[str, int]
    size: int


def lay_out(model: ModelProto, embedded: Mapping[str, int], external: Mapping[str, External]) -> Layout:
    """Place everything.

    embedded: bytes of each initializer that is filled in this file, in the file's order.
    external: where the bytes of others are.

    Initializers in neither are part of the graph, and written as they are. O(size of the graph).
    """
    from onnx import ModelProto

    shell = ModelProto()
    shell.CopyFrom(model)
    filled: dict[str, TensorProto] = {}
    kept: list[TensorProto] = []
    for tensor in shell.graph.initializer:
        if tensor.name in embedded:
            filled[tensor.name] = tensor
            continue
        if tensor.name in external:
            refer(tensor, external[tensor.name])
        kept.append(tensor)
    heads = {name: filled[name].SerializeToString(deterministic=True) for name in embedded}
    kept_bytes = [tensor.SerializeToString(deterministic=True) for tensor in kept]
    graph = shell.graph
    del graph.initializer[:]
    rest = graph.SerializeToString(deterministic=True)
    rest += b"".join(_field(_INITIALIZER, data) for data in kept_bytes)
    shell.ClearField("graph")
    top = shell.SerializeToString(deterministic=True)

    fronts = {name: _front(heads[name], length) for name, length in embedded.items()}
    inside = len(rest) + sum(len(front) + embedded[name] for name, front in fronts.items())
    start = top + _tag(_GRAPH) + _varint(inside) + rest
    pieces, offsets, position = [(0, start)], {}, len(start)
    for name, front in fronts.items():
        pieces.append((position, front))
        offsets[name] = position + len(front)
        position = offsets[name] + embedded[name]
    return Layout(pieces, offsets, position)


def refer(tensor: TensorProto, place: External) -> None:
    """Make an initializer's bytes external data."""
    from onnx import TensorProto

    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", place.location), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))


def _front(head: bytes, length: int) -> bytes:
    """Everything of an initializer's field before its bytes."""
    raw = _tag(_RAW_DATA) + _varint(length)
    return _tag(_INITIALIZER) + _varint(len(head) + len(raw) + length) + head + raw


def _field(number: int, data: bytes) -> bytes:
    return _tag(number) + _varint(len(data)) + data


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _LEN)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
