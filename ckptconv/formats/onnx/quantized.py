"""Find quantized weights: which initializers are the integers, scales and zero points of one weight.

    DequantizeLinear                             one scale for all elements, for each index of `axis`, or for blocks
                                                 along it; after a Gather, or operators that only move elements, one for
                                                 all
    QLinearConv  QLinearMatMul  QGemm            scale and zero point are inputs of the node; a bias of 32 bits has the
    QAttention  MatMulIntegerToFloat             scale of the weight times that of the input, and no zero point
    DynamicQuantizeMatMul  DynamicQuantizeLSTM
    MatMulInteger  ConvInteger                   the scale is in the Mul after the Cast of the output, by itself or
                                                 multiplied by that of the input
    MatMulNBits  GatherBlockQuantized            rows of blocks of elements with a few bits, in bytes (`nbits`)

Only initializers and Constants count, not what the graph computes; a weight that two nodes describe differently is left
as it is. The weight's name is that of its integers, without the suffix that onnxruntime's quantizers add. Other single
numbers that these nodes or QuantizeLinear take are scales and zero points of activations.

Sources: github.com/onnx/onnx, docs/Operators.md; onnxruntime, docs/ContribOperators.md and python/tools/quantization.
"""

from __future__ import annotations

import re
from collections import ChainMap, defaultdict
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.notes import WITH_SCALES, QuantizedWeight
from ckptconv.formats.onnx.graph import Place, TensorHeader, subgraphs
from ckptconv.formats.onnx.walk import read_integers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.formats.onnx.graph import Graph, Node
    from ckptconv.formats.onnx.wire import Window

_Tensors = MutableMapping[str, tuple[Place, TensorHeader]]

AFFINE, NBITS = "affine", "nbits"
SUMMARIES = {AFFINE: WITH_SCALES, NBITS: f"packed {WITH_SCALES}"}

LAST = -1

_INPUTS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "QLinearConv": ((3, 4, 5, 0),),
    "QLinearMatMul": ((3, 4, 5, LAST), (0, 1, 2, -2)),
    "QLinearAdd": ((0, 1, 2, LAST), (3, 4, 5, LAST)),
    "QLinearMul": ((0, 1, 2, LAST), (3, 4, 5, LAST)),
    "QAttention": ((1, 4, 7, LAST),),
    "MatMulIntegerToFloat": ((1, 3, 5, LAST),),
    "DynamicQuantizeMatMul": ((1, 2, 3, LAST),),
    "DynamicQuantizeLSTM": ((1, 8, 9, 0), (2, 10, 11, 0)),
}
"""By operator: which inputs are a weight, its scale and its zero point; the dimension along which scales differ."""

_BIASES = {"QLinearConv": (8, 4, 1), "QGemm": (6, 4, 1)}
"""Which inputs are the bias, the scale of the weight, and the scale of the input."""

_INTEGER = {"MatMulInteger": (LAST, LAST), "ConvInteger": (0, 1)}
"""The dimension of the weight along which scales differ, and the dimension of the output that it becomes."""

_NEIGHBORS_MATTER = frozenset((*_INTEGER, "DequantizeLinear"))
"""Operators that can only be understood together with the nodes before or after them."""

_MOVES = frozenset(("Gather", "GatherND", "GatherElements", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
_MAX_MOVES = 8

_SUFFIX = re.compile(r"(?:_quantized|_quant|(?:_DQ)?_Q[248](?:G\d{1,5})?)$")

_LINEAR = "QLinear"
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_MAX_BITS = 8
_U8 = 2


@dataclass(frozen=True, slots=True)
class FoundWeight:
    """A quantized weight: `parts` says where its values, scale and so on are."""

    scheme: str
    parts: Mapping[str, Place]
    details: Mapping[str, Json]


@dataclass(slots=True)
class Quantized:
    """What a model's graphs say about quantization.

    weights: by the place of their integers; None for a weight that two nodes describe differently.
    between: where the scales and zero points of activations are: of values that go from layer to layer.
    """

    weights: dict[Place, FoundWeight | None] = field(default_factory=dict)
    between: dict[Place, None] = field(default_factory=dict)

    @property
    def places(self) -> set[Place]:
        """Where the parts of all weights are."""
        return {place for weight in self.weights.values() if weight for place in weight.parts.values()}

    def with_names(self, names: Mapping[Place, str]) -> tuple[tuple[QuantizedWeight, ...], tuple[str, ...]]:
        """The weights, and the numbers for activations, by the names of the tensors (`names`)."""
        named: dict[str, QuantizedWeight] = {}
        found = [weight for weight in self.weights.values() if weight]
        stored = {names[weight.parts["values"]] for weight in found if weight.parts["values"] in names}
        for weight in found:
            if any(place not in names for place in weight.parts.values()):
                continue
            parts = {role: names[place] for role, place in weight.parts.items()}
            values = parts["values"]
            name = _SUFFIX.sub("", values) or values
            if name in named or name in stored:
                name = values
            named[name] = QuantizedWeight(name, weight.scheme, parts, weight.details, SUMMARIES[weight.scheme])
        used = {part for weight in named.values() for part in weight.parts.values()}
        between = dict.fromkeys(names[place] for place in self.between if place in names)
        return tuple(named.values()), tuple(name for name in between if name not in used)


def find_quantized(graph: Graph, window: Window) -> Quantized:
    """Search the main graph and its subgraphs. Reads the attributes of a few nodes."""
    found, main = Quantized(), dict[str, tuple[Place, TensorHeader]]()
    for path, inner in subgraphs(graph):
        own: dict[str, tuple[Place, TensorHeader]] = {
            header.name: ((path, header.name), header) for header in inner.initializers
        }
        own |= {
            node.outputs[0]: ((path, node.outputs[0]), node.tensors[0])
            for node in inner.nodes
            if node.is_constant and node.outputs and len(node.tensors) == 1
        }
        if not path:
            main = own
        _Search(ChainMap(own, main), inner, window, found).run()
    return found


@dataclass(slots=True)
class _Search:
    """Searches one graph. `tensors`: those that its nodes may use, with those of the main graph."""

    tensors: _Tensors
    graph: Graph
    window: Window
    found: Quantized
    uses: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list))
    made_by: dict[str, Node] = field(default_factory=dict)

    def run(self) -> None:
        if any(node.op in _NEIGHBORS_MATTER for node in self.graph.nodes):
            for node in self.graph.nodes:
                for name in node.inputs:
                    self.uses[name].append(node)
                self.made_by |= dict.fromkeys(node.outputs, node)
        for node in self.graph.nodes:
            if node.op not in _OPERATORS and not node.op.startswith(_LINEAR):
                continue
            for weight in self._weights_of(node) if node.domain in _DOMAINS else ():
                values = weight.parts["values"]
                if self.found.weights.setdefault(values, weight) != weight:
                    self.found.weights[values] = None
            if node.op not in _INTEGER:
                self._note_single_numbers(node)

    def _weights_of(self, node: Node) -> Iterator[FoundWeight]:
        for values, scale, zero, axis in _INPUTS.get(node.op, ()):
            yield from self._affine(node, values, scale, zero, axis)
        if node.op in _BIASES:
            bias, scale, factor = _BIASES[node.op]
            yield from self._affine(node, bias, scale, None, 0, factor=factor)
        if (special := _SPECIAL.get(node.op)) is not None:
            yield from special(self, node)

    def _affine(
        self, node: Node, values: int, scale: int, zero: int | None, axis: int, *, factor: int | None = None,
        block: int = 0,
    ) -> Iterator[FoundWeight]:  # fmt: skip
        """The weight whose parts are these inputs of the node, if all of them are tensors."""
        indices = {"values": values, "scale": scale, "zero_point": zero, "factor": factor}
        names = {role: _input(node, index) for role, index in indices.items() if index is not None}
        yield from self._affine_by_name(names, axis, block)

    def _affine_by_name(self, names: dict[str, str], axis: int, block: int = 0) -> Iterator[FoundWeight]:
        """The weight of these parts, if all of them are tensors."""
        names = {role: name for role, name in names.items() if name or role != "zero_point"}
        if any(name not in self.tensors for name in names.values()):
            return
        parts = {role: self.tensors[name] for role, name in names.items()}
        details = _scale_details(parts["values"][1].dims, parts["scale"][1].dims, axis, block)
        yield FoundWeight(AFFINE, {role: place for role, (place, _) in parts.items()}, details)

    def dequantize_linear(self, node: Node) -> Iterator[FoundWeight]:
        attributes = read_integers(self.window, node)
        names = {"values": _input(node, 0), "scale": _input(node, 1), "zero_point": _input(node, 2)}
        scale = self.tensors.get(names["scale"])
        if scale is not None and prod(scale[1].dims) == 1:
            names["values"] = self._before_moves(names["values"])
        yield from self._affine_by_name(names, attributes.get("axis", 1), attributes.get("block_size", 0))

    def _before_moves(self, name: str) -> str:
        """The value whose elements were moved, but not changed, to make this one."""
        for _ in range(_MAX_MOVES):
            node = self.made_by.get(name)
            if name in self.tensors or node is None or node.op not in _MOVES:
                break
            name = _input(node, 0)
        return name

    def gemm(self, node: Node) -> Iterator[FoundWeight]:
        is_transposed = read_integers(self.window, node).get("transB", 0)
        yield from self._affine(node, 3, 4, 5, 0 if is_transposed else 1)

    def integer_product(self, node: Node) -> Iterator[FoundWeight]:
        """The weight of a product of integers, which is scaled afterwards: Cast, then Mul."""
        cast = self._only_use(node, "Cast")
        scaled = self._only_use(cast, "Mul") if cast else None
        scales = [name for name in scaled.inputs if name not in cast.outputs] if cast and scaled else []
        product = self.made_by.get(scales[0]) if len(scales) == 1 else None
        if product is not None and product.op == "Mul":  # of the weight's scale and the input's
            scales = [name for name in product.inputs if name in self.tensors]
        if len(scales) != 1:
            return
        names = {"values": _input(node, 1), "scale": scales[0], "zero_point": _input(node, 3)}
        for weight in self._affine_by_name(names, LAST):
            values, scale = (self.tensors[names[role]][1].dims for role in ("values", "scale"))
            details = _output_scale_details(values, scale, *_INTEGER[node.op])
            if details is not None:
                yield replace(weight, details=details)

    def _only_use(self, node: Node, op: str) -> Node | None:
        uses = self.uses[node.outputs[0]] if node.outputs else []
        return uses[0] if len(uses) == 1 and uses[0].op == op else None

    def matmul_nbits(self, node: Node) -> Iterator[FoundWeight]:
        attributes = read_integers(self.window, node)
        if not _input(node, 4):  # g_idx, another order of the groups
            shape = attributes.get("N", 0), attributes.get("K", 0)
            yield from self._nbits(node, (1, 2, 3), attributes.get("bits", 4), shape, attributes.get("block_size", 0))

    def gather_block_quantized(self, node: Node) -> Iterator[FoundWeight]:
        """An embedding: elements of 4-bit types, or of a few bits in bytes as in MatMulNBits."""
        attributes = read_integers(self.window, node)
        bits, block = attributes.get("bits", 4), attributes.get("block_size", 128)
        axis = attributes.get("quantize_axis", 1)
        if _input(node, 0) not in self.tensors:
            return
        _, header = self.tensors[_input(node, 0)]
        if header.code != _U8:
            yield from self._affine(node, 0, 2, 3, axis, block=block)
        elif len(header.dims) == 2 and axis in (1, LAST) and 0 < bits <= _MAX_BITS:
            rows, row_bytes = header.dims
            yield from self._nbits(node, (0, 2, 3), bits, (rows, row_bytes * 8 // bits), block)

    def _nbits(
        self, node: Node, indices: tuple[int, int, int], bits: int, shape: tuple[int, int], block: int
    ) -> Iterator[FoundWeight]:
        """The weight of this shape whose values, scale and zero point are these inputs of the node."""
        roles = zip(("values", "scale", "zero_point"), indices, strict=True)
        names = {role: _input(node, index) for role, index in roles}
        names = {role: name for role, name in names.items() if name or role != "zero_point"}
        if all(name in self.tensors for name in names.values()):
            rows, columns = shape
            details: dict[str, Json] = {"bits": bits, "rows": rows, "columns": columns, "block": block}
            yield FoundWeight(NBITS, {role: self.tensors[name][0] for role, name in names.items()}, details)

    def _note_single_numbers(self, node: Node) -> None:
        for name in node.inputs:
            if name in self.tensors:
                place, header = self.tensors[name]
                if prod(header.dims) == 1:
                    self.found.between[place] = None


def _scale_details(values: list[int], scale: list[int], axis: int, block: int) -> dict[str, Json]:
    """How scales apply to a weight, from the dimensions of both: an axis, blocks along it, or counts of indices."""
    if block > 0:
        return {"axis": axis + len(values) if axis < 0 else axis, "block": block}
    if prod(scale) == 1:
        return {}
    if len(scale) == 1:
        return {"axis": axis + len(values) if axis < 0 else axis}
    if len(scale) == 2 and len(values) == 3:  # of an LSTM, for each direction and gate
        return {"counts": [scale[0], 1, scale[1]]}
    return {}


def _output_scale_details(values: list[int], scale: list[int], axis: int, channels: int) -> dict[str, Json] | None:
    """The same for scales that multiply the output; None if there is not one for each channel.

    axis:     the dimension of the weight that becomes the output's channels.
    channels: the dimension of the output with the channels.
    """
    count = prod(scale)
    if count == 1:
        return {}
    from_end = channels - len(values) if channels >= 0 else channels
    if from_end >= 0 or len(values) < -from_end or len(scale) < -from_end or scale[from_end] != count:
        return None
    return {"axis": axis % len(values), **({"counts": [count]} if len(scale) > 1 else {})}


def _input(node: Node, index: int) -> str:
    """The name of an input; "" if it is left out."""
    return node.inputs[index] if index < len(node.inputs) else ""


_SPECIAL: Mapping[str, Callable[[_Search, Node], Iterator[FoundWeight]]] = {
    "DequantizeLinear": _Search.dequantize_linear,
    "QGemm": _Search.gemm,
    "MatMulInteger": _Search.integer_product,
    "ConvInteger": _Search.integer_product,
    "MatMulNBits": _Search.matmul_nbits,
    "GatherBlockQuantized": _Search.gather_block_quantized,
}

_OPERATORS = frozenset((*_INPUTS, *_SPECIAL, "QuantizeLinear"))
