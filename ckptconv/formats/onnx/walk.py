"""Parse a model: walk its messages, skip the tensors' data, check names and numbers. `wire` lists the field numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import LimitError, UnsupportedError
from ckptconv.formats.onnx.graph import FLOAT_DATA, NUMBER_WIRES, Graph, Model, Node, Segment, TensorHeader
from ckptconv.formats.onnx.plain_nodes import read_plain_node
from ckptconv.formats.onnx.wire import Window, bad
from ckptconv.io.limits import MAX_RANK, MAX_SAFETENSORS_HEADER, MAX_TENSORS
from ckptconv.io.protobuf import LEN, VARINT, WIDTH, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SUBGRAPHS = 30
"""How deep graphs may be nested: protobuf's own limit of 100 nested messages allows about as many."""

MAX_SEGMENTS = 10_000
"""Into how many pieces a tensor's typed data may be split; writers make one."""

MAX_TEXTS = MAX_SAFETENSORS_HEADER
"""Bytes of one metadata string: as many as a safetensors file could hold."""

MAX_PAIRS = 100_000

OPERATORS_WITH_PROPERTIES = ("MatMul", "Conv", "ConvTranspose", "Gemm", "LSTM", "GRU", "RNN")
"""Operators whose metadata_props may name or explain a weight; those of others are not kept."""

OPERATORS_WITH_ATTRIBUTES = ("DequantizeLinear", "MatMulNBits", "GatherBlockQuantized", "QGemm")
"""Operators whose attributes may say how a weight is quantized; those of others are not kept."""


class Walker:
    """Reads one model. Counts the tensors, so that no number in the file decides how much memory is used."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._tensors = 0

    def read_model(self) -> Model:
        """Parse the whole file."""
        model, window = Model(), self._window
        seen: set[int] = set()
        for number, wire, begin, end in window.fields(0, window.source.size):
            if number in (1, 2, 3, 4, 5, 7):
                self._window.expect(number, wire, VARINT if number in (1, 5) else LEN)
                _refuse_repeat(number, seen, "the model")
            match number:
                case 1:
                    model.ir_version = signed(begin)
                case 5:
                    model.model_version = signed(begin)
                case 2 | 3 | 4:
                    model.texts[number] = window.text(begin, end)
                case 7:
                    model.graph = self._graph(begin, end, 0)
                case 8 | 14 | 20 | 25 | 26:
                    self._window.expect(number, wire, LEN)
                    self._read_repeated_field(model, number, begin, end)
        return model

    def _read_repeated_field(self, model: Model, number: int, begin: int, end: int) -> None:
        if number == 8:
            domain, version = self._opset(begin, end)
            model.opsets[domain] = version
        elif number == 14:
            key, value = self.read_string_pair(begin, end)
            if key in model.metadata:
                raise bad(f"the metadata key {key!r} comes twice")
            model.metadata[key] = value
        elif number in (20, 26):
            self._window.check(begin, end)
        else:
            name, body = self._function(begin, end)
            if name in model.functions:
                raise bad(f"the function {name!r} comes twice")
            model.functions[name] = body
        if max(len(model.opsets), len(model.metadata), len(model.functions)) > MAX_PAIRS:
            raise LimitError(f"more than {MAX_PAIRS:,} entries of one kind", hint="no honest model has so many")

    def _opset(self, start: int, stop: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, begin, end in self._window.matching(start, stop, {1: LEN, 2: VARINT}):
            if number == 1:
                domain = self._window.text(begin, end)
            else:
                version = signed(begin)
        return domain, version

    def read_string_pair(self, start: int, stop: int) -> tuple[str, str]:
        """Parse a StringStringEntryProto."""
        texts: dict[int, str] = {}
        for number, begin, end in self._window.known(start, stop, {1: LEN, 2: LEN}):
            if number in texts:
                raise bad("a string pair has two keys or two values")
            texts[number] = self._window.text(begin, end, MAX_TEXTS)
        return texts.get(1, ""), texts.get(2, "")

    def _function(self, start: int, stop: int) -> tuple[str, Graph]:
        body, texts = Graph(), {1: "", 10: "", 13: ""}
        for number, wire, begin, end in self._window.fields(start, stop):
            if number in (9, 11, 12, 14) and wire == LEN:
                self._window.check(begin, end)
            if number in (1, 7, 10, 13):
                self._window.expect(number, wire, LEN)
                if number == 7:
                    body.nodes.append(self._node(begin, end, 0))
                else:
                    texts[number] = self._window.text(begin, end)
        body.name = ".".join(text for text in (texts[10], texts[1], texts[13]) if text)
        return body.name, body

    def _graph(self, start: int, stop: int, depth: int) -> Graph:
        if depth > MAX_SUBGRAPHS:
            raise LimitError(f"graphs within graphs, more than {MAX_SUBGRAPHS} deep")
        graph = Graph()
        for number, wire, begin, end in self._window.fields(start, stop):
            if number in (13, 14, 16) and wire == LEN:
                self._window.check(begin, end)
            if number not in (1, 2, 5, 11, 12, 15):
                continue
            self._window.expect(number, wire, LEN)
            if number == 1:
                graph.nodes.append(self._node(begin, end, depth))
            elif number == 5:
                graph.initializers.append(self._tensor(begin, end))
            elif number == 2:
                graph.name = self._window.text(begin, end)
            else:
                {11: graph.inputs, 12: graph.outputs, 15: graph.sparse}[number].append((begin, end))
        return graph

    def _node(self, start: int, stop: int, depth: int) -> Node:
        node = read_plain_node(self._window, start, stop) or self._general_node(start, stop, depth)
        if not node.op:
            raise bad("a node has no operator")
        if node.op not in OPERATORS_WITH_PROPERTIES:
            node.properties = ()
        if node.op not in OPERATORS_WITH_ATTRIBUTES:
            node.attributes = ()
        return node

    def _general_node(self, start: int, stop: int, depth: int) -> Node:
        node, window = Node(), self._window
        for number, wire, begin, end in window.fields(start, stop):
            if number > 10:
                continue
            self._window.expect(number, wire, LEN)
            match number:
                case 1:
                    node.inputs += (window.text(begin, end),)
                case 2:
                    node.outputs += (window.text(begin, end),)
                case 3:
                    node.name = window.text(begin, end)
                case 4:
                    node.op = window.text(begin, end)
                case 5:
                    self._add_attribute(node, begin, end, depth)
                    node.attributes += ((begin, end),)
                case 7:
                    node.domain = window.text(begin, end)
                case 9 | 10:
                    window.check(begin, end)
                    node.properties += ((begin, end),) if number == 9 else ()
        return node

    def _add_attribute(self, node: Node, start: int, stop: int, depth: int) -> None:
        """Add an attribute's tensors, lists of floats and graphs to `node`; its other values cannot be weights."""
        window = self._window
        name, seen = "", set[int]()
        graphs: list[Graph] = []
        tensors: list[TensorHeader] = []
        floats = TensorHeader(code=1)
        at = start
        while at < stop:
            for number, wire, begin, end in window.fields(at, stop):
                if number in (1, 5, 6):
                    _refuse_repeat(number, seen, "an attribute")
                if number in (1, 5, 6, 10, 11, 22, 23):
                    self._window.expect(number, wire, LEN)
                if number == 1:
                    name = window.text(begin, end)
                elif number in (5, 10):
                    tensors.append(self._tensor(begin, end))
                elif number in (6, 11):
                    graphs.append(self._graph(begin, end, depth + 1))
                elif number == 7:
                    at = self._add_numbers(floats.numbers, FLOAT_DATA, (at, begin, end, stop), wire, number)
                    break
                elif number in (22, 23):
                    node.sparse = True
                elif number in (14, 15) and wire == LEN:
                    window.check(begin, end)
                at = end
        node.graphs += tuple((name if len(graphs) == 1 else f"{name}.{i}", graph) for i, graph in enumerate(graphs))
        if floats.numbers:
            segments = floats.numbers[FLOAT_DATA]
            floats.dims.append(sum((part.stop - part.start) // (4 if part.packed else 5) for part in segments))
            tensors.append(floats)
        node.tensors += tuple(tensors)

    def _tensor(self, start: int, stop: int) -> TensorHeader:
        self._tensors += 1
        if self._tensors > MAX_TENSORS:
            raise LimitError(f"more than {MAX_TENSORS:,} tensors", hint="no honest model has so many")
        header, seen = TensorHeader(), set[int]()
        at = start
        while at < stop:
            for number, wire, begin, end in self._window.fields(at, stop):
                if number in NUMBER_WIRES:
                    at = self._add_numbers(header.numbers, number, (at, begin, end, stop), wire, number)
                    break
                if number in (2, 3, 8, 9, 14):
                    _refuse_repeat(number, seen, "a tensor")
                self._read_tensor_field(header, number, wire, begin, end)
                at = end
        return header

    def _read_tensor_field(self, header: TensorHeader, number: int, wire: int, begin: int, end: int) -> None:
        match number:
            case 1:
                header.dims += self._dims(wire, begin, end)
                if len(header.dims) > MAX_RANK:
                    raise LimitError(f"a tensor of more than {MAX_RANK} dimensions")
            case 2 | 14:
                self._window.expect(number, wire, VARINT)
                if number == 2:
                    header.code = begin
                elif begin > 1:
                    raise bad(f"a tensor's data_location is {begin}")
                else:
                    header.is_external = begin == 1
            case 3:
                raise UnsupportedError("a tensor that is stored in segments", hint="onnx itself reads none either")
            case 6:
                header.has_strings = True
            case 16 if wire == LEN:
                self._window.check(begin, end)
            case 8 | 9 | 13:
                self._window.expect(number, wire, LEN)
                if number == 8:
                    header.name = self._window.text(begin, end)
                elif number == 9:
                    header.raw = begin, end
                else:
                    self._add_external_entry(header.external, begin, end)

    def _add_external_entry(self, entries: dict[str, str], begin: int, end: int) -> None:
        key, value = self.read_string_pair(begin, end)
        if key in entries:
            raise bad(f"the external data entry {key!r} comes twice")
        entries[key] = value

    def _dims(self, wire: int, begin: int, end: int) -> list[int]:
        if wire == VARINT:
            return [signed(begin)]
        self._window.expect(1, wire, LEN)
        return self._window.packed(begin, end, MAX_RANK)

    def _add_numbers(
        self, numbers: dict[int, list[Segment]], key: int, bounds: tuple[int, int, int, int], wire: int, number: int
    ) -> int:
        """Note where a field of packed numbers is, or a run of fields with one number each. Returns where it ends.

        key:    what `numbers` files it under.
        bounds: where the field's tag starts, its value starts and ends, and the message ends.
        """
        start, begin, end, stop = bounds
        segments = numbers.setdefault(key, [])
        if len(segments) >= MAX_SEGMENTS:
            raise LimitError(f"a tensor's numbers in more than {MAX_SEGMENTS:,} pieces")
        if wire == LEN:
            if (width := WIDTH.get(NUMBER_WIRES[key])) and (end - begin) % width:
                raise bad(f"{end - begin:,} bytes of packed numbers of {width} bytes each")
            if end > begin:
                segments.append(Segment(begin, end, packed=True))
            return end
        self._window.expect(number, wire, NUMBER_WIRES[key])
        end = self._window.run(start, stop, number, wire)
        segments.append(Segment(start, end, packed=False))
        return end


def _refuse_repeat(number: int, seen: set[int], where: str) -> None:
    if number in seen:
        raise bad(f"field {number} of {where} comes twice")
    seen.add(number)


def read_integers(window: Window, node: Node) -> Mapping[str, int]:
    """Read the attributes of a node that are integers."""
    found: dict[str, int] = {}
    for start, stop in node.attributes:
        name, value = "", None
        for number, begin, end in window.matching(start, stop, {1: LEN, 3: VARINT}):
            if number == 1:
                name = window.text(begin, end)
            else:
                value = signed(begin)
        if value is not None:
            found[name] = value
    return found


def read_properties(window: Window, node: Node) -> Mapping[str, str]:
    """Read the metadata_props of a node."""
    walker = Walker(window)
    return dict(walker.read_string_pair(begin, end) for begin, end in node.properties)
