"""Parse the XML of an OpenVINO model: its layers, and what the converter noted.

    <net name version>                     10 or 11
      <layers> <layer id name type version>    operators; Const and Parameter are two of them
          <data …>                         attributes: of a Const element_type, shape, offset, size
          <rt_info> <attribute name …>     "decompression" marks a Convert that only undoes how a constant is stored
          <input> <output> <port precision names> <dim>
          <body> <then_body> <else_body>   inner graphs, of a TensorIterator, a Loop or an If
      <edges>                              <edge from-layer from-port to-layer to-port>: which port feeds which
      <rt_info>                            versions and options of the converter; <meta_data> before 2023

It is parsed in chunks by expat, as UTF-8 whatever it declares. Refused: a document type (only that can define
entities), elements more than 64 deep, a piece of markup larger than 16 MiB, and documents larger than 512 MiB.

Sources: openvino/src/frontends/ir/src (ir_deserializer.cpp), src/core/src/xml_util (xml_serialize_util.cpp);
docs.python.org/3/library/xml.html, "XML security".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.parsers import expat  # whose handlers for document types and entities are ours

from ckptconv.errors import CUT_SHORT, CorruptFileError, LimitError, UnsupportedError
from ckptconv.io.limits import MAX_DEPTH, MAX_OPENVINO_MARKUP, MAX_OPENVINO_XML, MAX_RANK, MAX_TENSORS

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.graphs.names import GraphNames
    from ckptconv.io.source import Source

CHUNK = 256 << 10
KNOWN_VERSIONS = ("10", "11")
MAX_RT_INFO = 100_000
"""The most entries of ``rt_info``."""

_MAX_DIGITS = 20
_WITH_DATA = ("Const", "Parameter", "Convert")
_WITH_DIMS = ("Result", "Reshape")
_ARITHMETIC = ("Convert", "Gather", "Subtract", "Multiply", "Reshape")
_RT_INFO = ("rt_info", "meta_data", "quantization_parameters")

_TRUNCATED = tuple(
    expat.errors.codes[text] for text in (expat.errors.XML_ERROR_NO_ELEMENTS, expat.errors.XML_ERROR_UNCLOSED_TOKEN)
)


def number_in(text: str) -> int | None:
    """The size or the offset that a text states; None if it is neither."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS else None


def bad(what: str) -> CorruptFileError:
    """The error for a document that contradicts the format."""
    return CorruptFileError(f"the OpenVINO model is invalid: {what}")


@dataclass(slots=True)
class Layer:
    """An operator.

    name:         with `scope`, the path to its graph, as a prefix.
    number:       its index among all layers.
    data:         the attributes; only for constants, inputs and conversions.
    names:        of the tensor at its port.
    dims:         of that tensor; only for outputs and reshapes.
    decompresses: whether it only undoes how a constant is stored.
    inputs:       the layers at its input ports; only for arithmetic.
    feeds:        how many ports of its graph it feeds.
    """

    name: str
    type: str
    scope: str
    number: int
    data: dict[str, str] = field(default_factory=dict)
    names: str = ""
    precision: str = ""
    dims: list[str] = field(default_factory=list)
    decompresses: bool = False
    inputs: dict[str, Layer] = field(default_factory=dict)
    feeds: int = 0


@dataclass(slots=True)
class Net:
    """The whole document; `rt_info` is what the converter noted."""

    name: str = ""
    version: str = ""
    layers: list[Layer] = field(default_factory=list)
    rt_info: dict[str, MetaNode] = field(default_factory=dict)


def parse(source: Source, names: GraphNames) -> Net:
    """Read the document; `names` makes the layers' names. Raises CorruptFileError, LimitError, UnsupportedError."""
    if source.size > MAX_OPENVINO_XML:
        raise LimitError(f"the document has {source.size:,} bytes; the limit is {MAX_OPENVINO_XML:,}")
    builder = _Builder(names)
    at = 0
    try:
        while at < source.size:
            chunk = bytes(source.read_at(at, min(CHUNK, source.size - at)))
            builder.parser.Parse(chunk, False)
            at += len(chunk)
            if at - builder.position > MAX_OPENVINO_MARKUP:
                raise LimitError(f"a piece of the document has more than {MAX_OPENVINO_MARKUP:,} bytes")
        builder.parser.Parse(b"", True)
    except expat.ExpatError as error:
        if at == source.size and error.code in _TRUNCATED:
            message = f"the OpenVINO model is invalid: it ends at byte {at:,}, within an element"
            raise CorruptFileError(message, hint=CUT_SHORT) from error
        raise bad(f"it is not XML: {error}") from error
    return builder.net


class _Builder:
    """Builds the Net from the parser's events.

    _path:    the tags of the open elements.
    _layers:  the open layers, outermost first.
    _ids:     layers by their graph and id.
    _rt_info: the open entries of rt_info.
    """

    def __init__(self, names: GraphNames) -> None:
        self.net = Net()
        self._names = names
        self._rt_info_count = 0
        self.position = 0
        self._path: list[str] = []
        self._layers: list[Layer] = []
        self._ids: dict[tuple[tuple[int, str], str], Layer] = {}
        self._rt_info: list[dict[str, MetaNode]] = []
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.CharacterDataHandler = self._text

    def _refuse(self, *_: object) -> None:
        raise UnsupportedError(
            "the document has a document type, with which entities come", hint="no OpenVINO writer makes one"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self.position = self.parser.CurrentByteIndex
        if len(self._path) >= MAX_DEPTH:
            raise LimitError(f"its elements are more than {MAX_DEPTH} deep")
        parent = self._path[-1] if self._path else ""
        self._path.append(tag)
        if len(self._path) == 1:
            self._start_net(tag, attributes)
        elif self._rt_info or (len(self._path) == 2 and tag in _RT_INFO):
            self._start_rt_info(tag, attributes)
        elif tag == "layer" and parent == "layers":
            self._start_layer(attributes)
        elif tag == "edge" and parent == "edges":
            self._add_edge(attributes)
        elif self._layers:
            self._start_in_layer(self._layers[-1], parent, tag, attributes)

    def _start_net(self, tag: str, attributes: dict[str, str]) -> None:
        if tag != "net":
            raise bad(f"its root is <{tag}>, and no <net>")
        self.net.name, self.net.version = attributes.get("name", ""), attributes.get("version", "")
        if self.net.version not in KNOWN_VERSIONS:
            raise UnsupportedError(
                f"version {self.net.version!r} of OpenVINO's IR is not read, only 10 and 11 (2020 and later)",
                hint="convert what it was made from again, with a newer OpenVINO",
            )

    def _start_layer(self, attributes: dict[str, str]) -> None:
        if len(self.net.layers) >= MAX_TENSORS:
            raise LimitError(f"it has more than {MAX_TENSORS:,} layers")
        scope = ""
        if self._layers:  # in an inner graph, such as a Loop's body
            outer = self._layers[-1]
            scope = self._names.join(outer.name, ".", self._path[-3], ".")
        name, kind = self._names.join(scope, attributes.get("name", "")), attributes.get("type", "")
        layer = Layer(name, kind, scope, len(self.net.layers))
        if kind == "Const" or kind in _ARITHMETIC:
            self._ids[self._graph_key(), attributes.get("id", "")] = layer
        self.net.layers.append(layer)
        self._layers.append(layer)

    def _graph_key(self) -> tuple[int, str]:
        """The current graph: the number of the layer that it belongs to, and the tag of that layer's body."""
        return (self._layers[-1].number, self._path[-3]) if self._layers else (-1, "")

    def _add_edge(self, attributes: dict[str, str]) -> None:
        """Note which layer feeds which, if both are constants or arithmetic."""
        graph = self._graph_key()
        source = self._ids.get((graph, attributes.get("from-layer", "")))
        target = self._ids.get((graph, attributes.get("to-layer", "")))
        if source is not None:
            source.feeds += 1
            if target is not None:
                target.inputs[attributes.get("to-port", "")] = source

    def _start_in_layer(self, layer: Layer, parent: str, tag: str, attributes: dict[str, str]) -> None:
        grandparent = self._path[-3] if len(self._path) > 2 else ""
        if tag == "data" and parent == "layer":
            if layer.type in _WITH_DATA:
                layer.data = attributes
        elif tag == "port" and parent == _value_side(layer):
            layer.names, layer.precision = attributes.get("names", ""), attributes.get("precision", "")
        elif tag == "attribute" and parent == "rt_info" and grandparent == "layer":
            layer.decompresses = layer.decompresses or attributes.get("name") == "decompression"

    def _start_rt_info(self, tag: str, attributes: dict[str, str]) -> None:
        """Note an entry of the converter's: a name with a value, or with further entries."""
        self._rt_info_count += 1
        if self._rt_info_count > MAX_RT_INFO:
            raise LimitError(f"its rt_info has more than {MAX_RT_INFO:,} entries")
        key, entries = attributes.get("name", tag), dict[str, "MetaNode"]()
        parent = self._rt_info[-1] if self._rt_info else self.net.rt_info
        if key in parent:
            raise bad(f"{key!r} is said twice in what the converter says")
        parent[key] = attributes.get("value", entries)
        self._rt_info.append(entries)

    def _end(self, tag: str) -> None:
        self.position = self.parser.CurrentByteIndex
        self._path.pop()
        if self._rt_info:
            self._rt_info.pop()
        elif tag == "layer" and self._path[-1:] == ["layers"]:
            self._layers.pop()

    def _text(self, text: str) -> None:
        if self._path[-1:] == ["dim"] and self._layers and self._layers[-1].type in _WITH_DIMS:
            layer = self._layers[-1]
            if self._path[-3] == _value_side(layer) and len(layer.dims) < MAX_RANK:
                layer.dims.append(text[:_MAX_DIGITS])


def _value_side(layer: Layer) -> str:
    """The element with the ports that describe a layer's value."""
    return "input" if layer.type == "Result" else "output"
