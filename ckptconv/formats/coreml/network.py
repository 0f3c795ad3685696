"""The weights of a Core ML neural network, which are in the message itself.

    NeuralNetwork        1* layers; the same for classifiers and regressors
    NeuralNetworkLayer   1 name; one of the layers in `LAYERS`, or one without weights
    WeightParams         one of 1* floatValue (packed)  2 float16Value  30 rawValue  31 int8RawValue; 40 quantization
    QuantizationParams   1 numberOfBits; 101 linear (1* scale  2* bias)  102 a table (1* floatValue)

Names are made of the layer's name and the role of the weight in it: ``fc.weight``. Shapes follow from the layer's
parameters, if they fit the number of values.

Source: coremltools/mlmodel/format/NeuralNetwork.proto.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.coreml.layer_names import NAMES
from ckptconv.formats.coreml.model import bad
from ckptconv.io.limits import MAX_RANK, MAX_TENSORS
from ckptconv.io.protobuf import LEN, VARINT

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.formats.coreml.model import Range
    from ckptconv.formats.graphs.names import GraphNames
    from ckptconv.io.protobuf import Wire

FLOATS, HALVES, RAW, INT8 = 1, 2, 30, 31
QUANTIZATION = 40
FIRST_LAYER, ACTIVATION = 100, 130
MAX_NESTED = 16
MAX_PARAMS = 1 << 16

Params = dict[int, list[int]]
"""A layer's numeric parameters, by field number."""

Roles = dict[int, tuple[str, "Callable[[Params], tuple[int, ...]]"]]
"""By field number: the role of a weight in a layer, and the function that computes its shape."""


@dataclass(slots=True)
class Weights:
    """One weight of a layer.

    kind:  the field that has the values.
    place: where these are.
    bits:  of an element, if it is quantized.
    parts: where the scale, bias or table of a quantized weight is.
    """

    name: str
    shape: tuple[int, ...]
    kind: int = 0
    place: Range = (0, 0)
    bits: int = 0
    parts: dict[str, Range] = field(default_factory=dict)


@dataclass(slots=True)
class Network:
    """The weights of all layers; `layers` counts the layers by type, `names` makes names for the weights."""

    names: GraphNames
    weights: list[Weights] = field(default_factory=list)
    layers: Counter[str] = field(default_factory=Counter)


def _param(params: Params, number: int) -> int:
    return params.get(number, [0])[0]


def _sizes(*numbers: int) -> Callable[[Params], tuple[int, ...]]:
    """A function that returns the values of these fields as a shape."""
    return lambda params: tuple(size for number in numbers for size in params.get(number, [0]))


def _convolution(params: Params) -> tuple[int, ...]:
    kernel = tuple(params.get(20, [3, 3]))
    outputs, inputs = _param(params, 1), _param(params, 2)
    if _param(params, 60):  # isDeconvolution
        return (inputs, outputs // max(_param(params, 10), 1), *kernel)
    return (outputs, inputs, *kernel)


def _convolution3d(params: Params) -> tuple[int, ...]:
    outputs, inputs, groups = _param(params, 1), _param(params, 2), max(_param(params, 10), 1)
    is_deconvolution = _param(params, 86)
    channels = (inputs, outputs // groups) if is_deconvolution else (outputs, inputs // groups)
    return (*channels, *(_param(params, number) for number in (20, 21, 22)))


_OUT, _IN = 2, 1
_MATRIX, _SQUARE, _ROW = _sizes(_OUT, _IN), _sizes(_OUT, _OUT), _sizes(_OUT)
_LSTM = {
    number + index: (f"{gate}_{what}", shape)
    for number, what, shape in ((1, "weight", _MATRIX), (20, "recursion", _SQUARE), (40, "bias", _ROW))
    for index, gate in enumerate(("input", "forget", "block", "output"))
} | {60 + index: (f"{gate}_peephole", _ROW) for index, gate in enumerate(("input", "forget", "output"))}
_GRU = {
    number + index: (f"{gate}_{what}", shape)
    for number, what, shape in ((30, "weight", _MATRIX), (50, "recursion", _SQUARE), (70, "bias", _ROW))
    for index, gate in enumerate(("update", "reset", "output"))
}

LAYERS: dict[int, Roles] = {
    100: {90: ("weight", _convolution), 91: ("bias", _sizes(1))},
    1471: {60: ("weight", _convolution3d), 61: ("bias", _sizes(1))},
    140: {20: ("weight", _sizes(2, 1)), 21: ("bias", _sizes(2))},
    150: {20: ("weight", _sizes(2, 1)), 21: ("bias", _sizes(2))},
    1040: {20: ("weight", _sizes(2, 1)), 21: ("bias", _sizes(2))},
    1045: {8: ("weight", _sizes(5, 6)), 9: ("bias", _sizes(6))},
    160: {15 + i: (role, _sizes(1)) for i, role in enumerate(("gamma", "beta", "mean", "variance"))},
    1350: {3: ("gamma", _sizes(1)), 4: ("beta", _sizes(1))},
    245: {2: ("scale", _sizes(1)), 5: ("bias", _sizes(4))},
    250: {2: ("bias", _sizes(1))},
    290: {2: ("data", _sizes(1))},
    1070: {2: ("data", _sizes(1))},
    400: {30: ("weight", _MATRIX), 31: ("recursion", _SQUARE), 32: ("bias", _ROW)},
    410: _GRU,
    420: {},  # LSTMs: `_INSIDE`
    430: {},
    500: {20: ("weight", _sizes())},
}  # fmt: skip
"""The layers with weights, by their field number, and the roles of their fields of type WeightParams."""

_INSIDE: dict[int, tuple[int, ...]] = {420: (20,), 430: (20,)}
"""Layers whose weights are in inner messages, in these fields: the LSTMs."""

_ACTIVATIONS = {25: {1: "alpha"}, 71: {1: "alpha", 2: "beta"}}
_BRANCHES = {605: {1: "if", 2: "else"}, 615: {3: "condition", 4: "body"}}


def read_network(wire: Wire, place: Range, scope: str, names: GraphNames) -> Network:
    """Walk the message. Raises CorruptFileError, LimitError."""
    network = Network(names)
    _read_layers(wire, network, place, scope, 0)
    return network


def _read_layers(wire: Wire, network: Network, place: Range, scope: str, depth: int) -> None:
    if depth > MAX_NESTED:
        raise LimitError(f"its networks are more than {MAX_NESTED} deep")
    for _, begin, end in wire.known(*place, {1: LEN}):
        _read_layer(wire, network, (begin, end), scope, depth)


def _read_layer(wire: Wire, network: Network, place: Range, scope: str, depth: int) -> None:
    name = ""
    for number, kind, begin, end in wire.fields(*place):
        if kind != LEN:
            continue
        if number >= FIRST_LAYER:
            network.layers[NAMES.get(number, f"layer {number}")] += 1
        if number == 1:
            name = wire.text(begin, end)
        elif number in _BRANCHES:
            branches = _BRANCHES[number]
            for inner, start, stop in wire.matching(begin, end, dict.fromkeys(branches, LEN)):
                inner_scope = network.names.join(scope, name, ".", branches[inner], ".")
                _read_layers(wire, network, (start, stop), inner_scope, depth + 1)
        elif number == ACTIVATION:
            _read_activation(wire, network, (begin, end), network.names.join(scope, name))
        elif number in LAYERS:
            _read_weights(wire, network, number, (begin, end), network.names.join(scope, name))


def _read_activation(wire: Wire, network: Network, place: Range, name: str) -> None:
    for number, begin, end in wire.matching(*place, dict.fromkeys(_ACTIVATIONS, LEN)):
        roles = _ACTIVATIONS[number]
        for inner, start, stop in wire.matching(begin, end, dict.fromkeys(roles, LEN)):
            _add(wire, network, (name, ".", roles[inner]), (), (start, stop))


def _read_weights(wire: Wire, network: Network, layer: int, place: Range, name: str) -> None:
    """Read the weights of a layer. `layer`: its field number; `name`: its name, with the scope."""
    roles = LAYERS[layer]
    params: Params = {}
    numbers = 0
    found: list[tuple[int, Range]] = []
    inside: list[Range] = []
    for number, kind, begin, end in wire.fields(*place):
        if kind == LEN and number in roles:
            found.append((number, (begin, end)))
        elif kind == LEN and number in _INSIDE.get(layer, ()):
            inside.append((begin, end))
        elif kind == VARINT:
            params.setdefault(number, []).append(begin)
            numbers += 1
        elif kind == LEN and number in (1, 4, 20):  # packed numbers
            packed = wire.packed(begin, end, MAX_RANK)
            params.setdefault(number, []).extend(packed)
            numbers += len(packed)
        if len(found) > MAX_PARAMS or numbers > MAX_PARAMS:
            raise LimitError(f"the layer {name!r} has more than {MAX_PARAMS:,} numbers or weights")
    _add_found(wire, network, name, _compute_shapes(roles, params, name), found)
    lstm_roles = _compute_shapes(_LSTM, params, name) if inside else {}
    for index, message in enumerate(inside):
        direction = ("forward.", "backward.")[index] if layer == 430 and index < 2 else ""
        for number, begin, end in wire.matching(*message, dict.fromkeys(lstm_roles, LEN)):
            role, shape = lstm_roles[number]
            _add(wire, network, (name, ".", direction, role), shape, (begin, end))


def _compute_shapes(roles: Roles, params: Params, name: str) -> dict[int, tuple[str, tuple[int, ...]]]:
    """The role and shape of each weight of a layer. Done once per layer, which may have many weights of one role."""
    shaped = {number: (role, shape(params)) for number, (role, shape) in roles.items()}
    if any(len(shape) > MAX_RANK for _, shape in shaped.values()):
        raise LimitError(f"the layer {name!r} has weights of more than {MAX_RANK} dimensions")
    return shaped


def _add_found(
    wire: Wire, network: Network, name: str, roles: dict[int, tuple[str, tuple[int, ...]]],
    found: list[tuple[int, Range]],
) -> None:  # fmt: skip
    counts = Counter(number for number, _ in found)
    for index, (number, place) in enumerate(found):
        role, shape = roles[number]
        suffix = f".{index}" if counts[number] > 1 else ""
        _add(wire, network, (name, ".", role, suffix), shape, place)


def _add(wire: Wire, network: Network, name_parts: tuple[str, ...], shape: tuple[int, ...], place: Range) -> None:
    """Read a WeightParams, and add it to the network if it has values."""
    name = network.names.join(*name_parts)
    weights = Weights(name, shape)
    for number, kind, begin, end in wire.fields(*place):
        if number in (FLOATS, HALVES, RAW, INT8) and (end > begin or kind != LEN):
            wire.expect(number, kind, LEN)
            if weights.kind:
                raise bad(f"the values of {name!r} are in two places at once")
            weights.kind, weights.place = number, (begin, end)
        elif number == QUANTIZATION:
            wire.expect(number, kind, LEN)
            _read_quantization(wire, weights, begin, end)
    if weights.kind:
        network.weights.append(weights)
    if len(network.weights) > MAX_TENSORS:
        raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")


def _read_quantization(wire: Wire, weights: Weights, start: int, stop: int) -> None:
    for number, begin, end in wire.known(start, stop, {1: VARINT, 101: LEN, 102: LEN}):
        if number == 1:
            weights.bits = begin
            continue
        roles = {1: "scale", 2: "bias"} if number == 101 else {1: "table"}
        for inner, first, last in wire.known(begin, end, dict.fromkeys(roles, LEN)):
            weights.parts[roles[inner]] = first, last


def fit_shape(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The shape that follows from a layer's parameters, if it has `count` elements; otherwise one dimension."""
    if not shape:
        return (count,)
    if prod(shape) != count:  # 0 stands for parameters that are not stated
        shape = tuple(size for size in shape if size)
    return shape if len(shape) <= MAX_RANK and prod(shape) == count else (count,)
