"""Weights that a graph computes of integers, scales and zero points: which initializers belong together.

    DequantizeLinear                             one for all, for each index of `axis`, or for blocks along it; behind a
                                                 Gather or what moves elements alone, one for all
    QLinearConv  QLinearMatMul  QGemm            scale and zero point are among the node's inputs; those of a bias of 32
    QAttention  MatMulIntegerToFloat             bits are the weight's scale times that of the input, and none
    DynamicQuantizeMatMul  DynamicQuantizeLSTM
    MatMulInteger  ConvInteger                   the scale is in the Mul behind the Cast of what comes out, by itself or
                                                 multiplied with that of the input
    MatMulNBits  GatherBlockQuantized            rows of blocks of a few bits in bytes (`nbits`)

Each is read from initializers and Constants; what is computed is none of them, and a weight for which two nodes say
otherwise is left as it is. Its name is that of its integers, less what onnxruntime's quantizers put behind it. Other
single numbers that these nodes take, and QuantizeLinear, are for what goes from layer to layer.

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
from ckptconv.formats.onnx.graph import TensorHeader, subgraphs
from ckptconv.formats.onnx.walk import integers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.formats.onnx.graph import Graph, Node
    from ckptconv.formats.onnx.wire import Window

Place = tuple[str, str]
"""The path of a graph, and the name of a value in it."""

_Tensors = MutableMapping[str, tuple[Place, TensorHeader]]

AFFINE, NBITS = "affine", "nbits"
CALLED = {AFFINE: WITH_SCALES, NBITS: f"packed {WITH_SCALES}"}

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
"""By operator, which inputs are a weight, its scale and its zero point, and along which dimension there are several."""

_BIASES = {"QLinearConv": (8, 4, 1), "QGemm": (6, 4, 1)}
"""Which inputs are a bias, and the scales of weight and input."""

_INTEGER = {"MatMulInteger": (LAST, LAST), "ConvInteger": (0, 1)}
"""Along which dimension of the weight there are several scales, and along which of what comes out, of as many."""

_FOLLOWED = frozenset((*_INTEGER, "DequantizeLinear"))
"""Operators that are understood together with those around them."""

_MOVES = frozenset(("Gather", "GatherND", "GatherElements", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
_MOST_MOVES = 8

_SUFFIX = re.compile(r"(?:_quantized|_quant|(?:_DQ)?_Q[248](?:G\d{1,5})?)$")

_LINEAR = "QLinear"
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_MOST_BITS = 8
_U8 = 2


@dataclass(frozen=True, slots=True)
class Found:
    """A weight: where its parts are, by what they are."""

    scheme: str
    parts: Mapping[str, Place]
    details: Mapping[str, Json]


@dataclass(slots=True)
class Quantized:
    """What a model's graphs say: the weights by the place of their integers, None of those that are said in two ways,
    and the numbers for what goes from layer to layer.
    """

    weights: dict[Place, Found | None] = field(default_factory=dict)
    between: dict[Place, None] = field(default_factory=dict)

    @property
    def places(self) -> set[Place]:
        """Where all of their parts are."""
        return {place for one in self.weights.values() if one for place in one.parts.values()}

    def named(self, names: Mapping[Place, str]) -> tuple[tuple[QuantizedWeight, ...], tuple[str, ...]]:
        """The weights, and the other numbers, by the names that the tensors have."""
        made: dict[str, QuantizedWeight] = {}
        others = {names[one.parts["values"]] for one in self.weights.values() if one and one.parts["values"] in names}
        for one in self.weights.values():
            if one is None or any(place not in names for place in one.parts.values()):
                continue
            parts = {role: names[place] for role, place in one.parts.items()}
            values = parts["values"]
            name = _SUFFIX.sub("", values) or values
            name = values if name in made or name in others else name
            made[name] = QuantizedWeight(name, one.scheme, parts, one.details, CALLED[one.scheme])
        used = {part for one in made.values() for part in one.parts.values()}
        between = dict.fromkeys(names[place] for place in self.between if place in names)
        return tuple(made.values()), tuple(name for name in between if name not in used)


def find_quantized(graph: Graph, window: Window) -> Quantized:
    """Look through the main graph and those in it. Reads attributes of few nodes."""
    found, main = Quantized(), dict[str, tuple[Place, TensorHeader]]()
    for path, one in subgraphs(graph):
        there: dict[str, tuple[Place, TensorHeader]] = {
            header.name: ((path, header.name), header) for header in one.initializers
        }
        there |= {
            node.outputs[0]: ((path, node.outputs[0]), node.tensors[0])
            for node in one.nodes
            if node.is_constant and node.outputs and len(node.tensors) == 1
        }
        main = main if path else there
        _Search(ChainMap(there, main), one, window, found).run()
    return found


@dataclass(slots=True)
class _Search:
    """A graph, and the tensors that its nodes may take."""

    tensors: _Tensors
    graph: Graph
    window: Window
    found: Quantized
    uses: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list))
    made_by: dict[str, Node] = field(default_factory=dict)

    def run(self) -> None:
        if any(node.op in _FOLLOWED for node in self.graph.nodes):
            for node in self.graph.nodes:
                for name in node.inputs:
                    self.uses[name].append(node)
                self.made_by |= dict.fromkeys(node.outputs, node)
        for node in self.graph.nodes:
            if node.op not in _OPERATORS and not node.op.startswith(_LINEAR):
                continue
            for one in self._of(node) if node.domain in _DOMAINS else ():
                values = one.parts["values"]
                if self.found.weights.setdefault(values, one) != one:
                    self.found.weights[values] = None
            if node.op not in _INTEGER:
                self._between(node)

    def _of(self, node: Node) -> Iterator[Found]:
        rows = _INPUTS.get(node.op, ())
        for values, scale, zero, axis in rows:
            yield from self._affine(node, values, scale, zero, axis)
        if node.op in _BIASES:
            bias, scale, factor = _BIASES[node.op]
            yield from self._affine(node, bias, scale, None, 0, factor=factor)
        if (special := _SPECIAL.get(node.op)) is not None:
            yield from special(self, node)

    def _affine(
        self, node: Node, values: int, scale: int, zero: int | None, axis: int, *, factor: int | None = None,
        block: int = 0,
    ) -> Iterator[Found]:  # fmt: skip
        places = {"values": values, "scale": scale, "zero_point": zero, "factor": factor}
        yield from self._with({role: _input(node, at) for role, at in places.items() if at is not None}, axis, block)

    def _with(self, names: dict[str, str], axis: int, block: int = 0) -> Iterator[Found]:
        """The weight of these parts, where all of them are tensors."""
        names = {role: name for role, name in names.items() if name or role != "zero_point"}
        if any(name not in self.tensors for name in names.values()):
            return
        parts = {role: self.tensors[name] for role, name in names.items()}
        values, scale = parts["values"][1].dims, parts["scale"][1].dims
        yield Found(AFFINE, {role: place for role, (place, _) in parts.items()}, _along(values, scale, axis, block))

    def dequantize_linear(self, node: Node) -> Iterator[Found]:
        said = integers(self.window, node)
        names = {"values": _input(node, 0), "scale": _input(node, 1), "zero_point": _input(node, 2)}
        scale = self.tensors.get(names["scale"])
        if scale is not None and prod(scale[1].dims) == 1:
            names["values"] = self._moved(names["values"])
        yield from self._with(names, said.get("axis", 1), said.get("block_size", 0))

    def _moved(self, name: str) -> str:
        """The tensor of whose elements a value is made of."""
        for _ in range(_MOST_MOVES):
            node = self.made_by.get(name)
            if name in self.tensors or node is None or node.op not in _MOVES:
                break
            name = _input(node, 0)
        return name

    def gemm(self, node: Node) -> Iterator[Found]:
        turned = integers(self.window, node).get("transB", 0)
        yield from self._affine(node, 3, 4, 5, 0 if turned else 1)

    def of_integers(self, node: Node) -> Iterator[Found]:
        """A weight whose scale comes in behind: Cast, then Mul."""
        cast = self._only_use(node, "Cast")
        scaled = self._only_use(cast, "Mul") if cast else None
        others = [name for name in scaled.inputs if name not in cast.outputs] if cast and scaled else []
        product = self.made_by.get(others[0]) if len(others) == 1 else None
        if product is not None and product.op == "Mul":
            others = [name for name in product.inputs if name in self.tensors]
        if len(others) == 1:
            names = {"values": _input(node, 1), "scale": others[0], "zero_point": _input(node, 3)}
            for one in self._with(names, LAST):
                values, scale = (self.tensors[names[role]][1].dims for role in ("values", "scale"))
                details = _over_channels(values, scale, *_INTEGER[node.op])
                if details is not None:
                    yield replace(one, details=details)

    def _only_use(self, node: Node, op: str) -> Node | None:
        uses = self.uses[node.outputs[0]] if node.outputs else []
        return uses[0] if len(uses) == 1 and uses[0].op == op else None

    def mat_mul(self, node: Node) -> Iterator[Found]:
        said = integers(self.window, node)
        if not _input(node, 4):  # the order of the groups
            sizes = said.get("N", 0), said.get("K", 0)
            yield from self._nbits(node, (1, 2, 3), said.get("bits", 4), sizes, said.get("block_size", 0))

    def gather(self, node: Node) -> Iterator[Found]:
        """An embedding: elements of an own type, or of a few bits in bytes, as those of MatMulNBits."""
        said = integers(self.window, node)
        bits, block, axis = said.get("bits", 4), said.get("block_size", 128), said.get("quantize_axis", 1)
        known = self.tensors.get(_input(node, 0))
        if known is None:
            return
        _, header = known
        if header.code != _U8:
            yield from self._affine(node, 0, 2, 3, axis, block=block)
        elif len(header.dims) == 2 and axis in (1, LAST) and 0 < bits <= _MOST_BITS:
            rows, stored = header.dims
            yield from self._nbits(node, (0, 2, 3), bits, (rows, stored * 8 // bits), block)

    def _nbits(
        self, node: Node, at: tuple[int, int, int], bits: int, size: tuple[int, int], block: int
    ) -> Iterator[Found]:
        names = {role: _input(node, place) for role, place in zip(("values", "scale", "zero_point"), at, strict=True)}
        names = {role: name for role, name in names.items() if name or role != "zero_point"}
        if all(name in self.tensors for name in names.values()):
            rows, columns = size
            details: dict[str, Json] = {"bits": bits, "rows": rows, "columns": columns, "block": block}
            yield Found(NBITS, {role: self.tensors[name][0] for role, name in names.items()}, details)

    def _between(self, node: Node) -> None:
        for name in node.inputs:
            if name in self.tensors:
                place, header = self.tensors[name]
                if prod(header.dims) == 1:
                    self.found.between[place] = None


def _along(values: list[int], scale: list[int], axis: int, block: int) -> dict[str, Json]:
    """What of axis and blocks has a meaning."""
    if block > 0:
        return {"axis": axis + len(values) if axis < 0 else axis, "block": block}
    if prod(scale) == 1:
        return {}
    if len(scale) == 1:
        return {"axis": axis + len(values) if axis < 0 else axis}
    if len(scale) == 2 == len(values) - 1:  # of an LSTM, for each direction and gate
        return {"counts": [scale[0], 1, scale[1]]}
    return {}


def _over_channels(values: list[int], scale: list[int], axis: int, channels: int) -> dict[str, Json] | None:
    """The same of a scale that multiplies what comes out; None where it is not one for each of its channels."""
    count, place = prod(scale), channels - len(values) if channels >= 0 else channels
    if count == 1:
        return {}
    if place >= 0 or len(values) < -place or len(scale) < -place or scale[place] != count:
        return None
    return {"axis": axis % len(values), **({"counts": [count]} if len(scale) > 1 else {})}


def _input(node: Node, at: int) -> str:
    """The name of an input; "" where it is left out."""
    return node.inputs[at] if at < len(node.inputs) else ""


_SPECIAL: Mapping[str, Callable[[_Search, Node], Iterator[Found]]] = {
    "DequantizeLinear": _Search.dequantize_linear, "QGemm": _Search.gemm, "MatMulInteger": _Search.of_integers,
    "ConvInteger": _Search.of_integers, "MatMulNBits": _Search.mat_mul, "GatherBlockQuantized": _Search.gather,
}  # fmt: skip

_OPERATORS = frozenset((*_INPUTS, *_SPECIAL, "QuantizeLinear"))
