"""Where every byte of a written ONNX file goes; the tensors' bytes themselves are added later.

A protobuf message may have its fields in any order, so the file is written as

    all fields of the model but the graph
    the tag and length of the graph, and all its fields but the initializers that are filled
    for each of those: tag and length; its name, type and dimensions; the tag and length of its raw_data; the bytes

All lengths are known before the first byte of a tensor is read. If the data is external, a reference replaces the last
part.
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
"""The largest protobuf message that its libraries read, in bytes."""


@dataclass(frozen=True, slots=True)
class External:
    """Where a tensor's data is in a file beside the model."""

    location: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The file without its tensors' bytes.

    pieces:  what is written at which offset.
    offsets: where the bytes of each embedded tensor go.
    size:    of the whole file, with the tensors.
    """

    pieces: Sequence[tuple[int, bytes]]
    offsets: Mapping[str, int]
    size: int


def plan_layout(model: ModelProto, embedded: Mapping[str, int], external: Mapping[str, External]) -> Layout:
    """Lay the file out. O(size of the graph).

    embedded: the size of each initializer whose data goes into this file, in the file's order.
    external: where the data of others is.

    Initializers in neither belong to the graph, and are written as they are.
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
            make_external(tensor, external[tensor.name])
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


def make_external(tensor: TensorProto, place: External) -> None:
    """Make an initializer refer to external data."""
    from onnx import TensorProto

    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", place.location), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))


def _front(head: bytes, length: int) -> bytes:
    """Everything in an initializer's field before its data. `head`: its name, type and dimensions, serialized."""
    raw = _tag(_RAW_DATA) + _varint(length)
    return _tag(_INITIALIZER) + _varint(len(head) + len(raw) + length) + head + raw


def _field(number: int, data: bytes) -> bytes:
    return _tag(number) + _varint(len(data)) + data


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _LEN)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
