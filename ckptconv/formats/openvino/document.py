"""The document of an OpenVINO model: which layers it has, and what it says of itself.

    <net name version>                     10 or 11
      <layers> <layer id name type version>    operators; Const and Parameter are two
          <data …>                         attributes: of a Const element_type, shape, offset, size
          <rt_info> <attribute name …>     "decompression" marks a Convert that only undoes how a constant is stored
          <input> <output> <port precision names> <dim>
          <body> <then_body> <else_body>   graphs of their own, of a TensorIterator, a Loop or an If
      <edges>                              <edge from-layer from-port to-layer to-port>: which port feeds which
      <rt_info>                            versions and options of the converter; <meta_data> before 2023

It is parsed by expat in pieces, as UTF-8 whatever it declares. Refused: a document type (with which entities come),
elements more than 64 deep, a piece of markup of more than 16 MiB, documents of more than 512 MiB.

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
MAX_SAID = 100_000
"""Entries of ``rt_info``."""

_MOST_DIGITS = 20
_WITH_DATA = ("Const", "Parameter", "Convert")
_WITH_DIMS = ("Result", "Reshape")
_ARITHMETIC = ("Convert", "Gather", "Subtract", "Multiply", "Reshape")
_ABOUT = ("rt_info", "meta_data", "quantization_parameters")

_CUT = tuple(
    expat.errors.codes[text] for text in (expat.errors.XML_ERROR_NO_ELEMENTS, expat.errors.XML_ERROR_UNCLOSED_TOKEN)
)


def number_in(text: str) -> int | None:
    """A size or a place in a file; None for a text that is neither."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS else None


def bad(what: str) -> CorruptFileError:
    """The error for a document that contradicts the format."""
    return CorruptFileError(f"the OpenVINO model is invalid: {what}")


@dataclass(slots=True)
class Layer:
    """An operator. `name` begins with what leads to its graph, `scope`; `data` is kept of constants, inputs and
    conversions alone, `dims` of outputs and of what reshapes, `inputs` of arithmetic: the layers at its ports.

    number: its place among all. feeds: how many ports of its graph it feeds.
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
    """The whole document."""

    name: str = ""
    version: str = ""
    layers: list[Layer] = field(default_factory=list)
    about: dict[str, MetaNode] = field(default_factory=dict)


def parse(source: Source, names: GraphNames) -> Net:
    """Read the document; `names` are those of its layers. Raises CorruptFileError, LimitError, UnsupportedError."""
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
        if at == source.size and error.code in _CUT:
            message = f"the OpenVINO model is invalid: it ends at byte {at:,}, within an element"
            raise CorruptFileError(message, hint=CUT_SHORT) from error
        raise bad(f"it is not XML: {error}") from error
    return builder.net


class _Builder:
    def __init__(self, names: GraphNames) -> None:
        self.net = Net()
        self._names = names
        self._said = 0
        self.position = 0
        self._path: list[str] = []
        self._layers: list[Layer] = []
        self._ids: dict[tuple[tuple[int, str], str], Layer] = {}
        self._about: list[dict[str, MetaNode]] = []
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
            self._begin(tag, attributes)
        elif self._about or (len(self._path) == 2 and tag in _ABOUT):
            self._tell(tag, attributes)
        elif tag == "layer" and parent == "layers":
            self._layer(attributes)
        elif tag == "edge" and parent == "edges":
            self._edge(attributes)
        elif self._layers:
            self._of_layer(self._layers[-1], parent, tag, attributes)

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        if tag != "net":
            raise bad(f"its root is <{tag}>, and no <net>")
        self.net.name, self.net.version = attributes.get("name", ""), attributes.get("version", "")
        if self.net.version not in KNOWN_VERSIONS:
            raise UnsupportedError(
                f"version {self.net.version!r} of OpenVINO's IR is not read, only 10 and 11 (2020 and later)",
                hint="convert what it was made from again, with a newer OpenVINO",
            )

    def _layer(self, attributes: dict[str, str]) -> None:
        if len(self.net.layers) >= MAX_TENSORS:
            raise LimitError(f"it has more than {MAX_TENSORS:,} layers")
        scope = ""
        if self._layers:  # in such as a Loop's body, or one of an If's two
            outer = self._layers[-1]
            scope = self._names.join(outer.name, ".", self._path[-3], ".")
        name, kind = self._names.join(scope, attributes.get("name", "")), attributes.get("type", "")
        layer = Layer(name, kind, scope, len(self.net.layers))
        if kind == "Const" or kind in _ARITHMETIC:
            self._ids[self._graph(), attributes.get("id", "")] = layer
        self.net.layers.append(layer)
        self._layers.append(layer)

    def _graph(self) -> tuple[int, str]:
        """The graph that it is in: the number of the operator that has it, and the name of its body."""
        return (self._layers[-1].number, self._path[-3]) if self._layers else (-1, "")

    def _edge(self, attributes: dict[str, str]) -> None:
        """Of arithmetic with constants, which layer is where."""
        graph = self._graph()
        source = self._ids.get((graph, attributes.get("from-layer", "")))
        target = self._ids.get((graph, attributes.get("to-layer", "")))
        if source is not None:
            source.feeds += 1
            if target is not None:
                target.inputs[attributes.get("to-port", "")] = source

    def _of_layer(self, layer: Layer, parent: str, tag: str, attributes: dict[str, str]) -> None:
        above = self._path[-3] if len(self._path) > 2 else ""
        if tag == "data" and parent == "layer":
            if layer.type in _WITH_DATA:
                layer.data = attributes
        elif tag == "port" and parent == _side(layer):
            layer.names, layer.precision = attributes.get("names", ""), attributes.get("precision", "")
        elif tag == "attribute" and parent == "rt_info" and above == "layer":
            layer.decompresses = layer.decompresses or attributes.get("name") == "decompression"

    def _tell(self, tag: str, attributes: dict[str, str]) -> None:
        """What the converter says: names with a value, or with more names in them."""
        self._said += 1
        if self._said > MAX_SAID:
            raise LimitError(f"the converter says more than {MAX_SAID:,} things")
        key, inside = attributes.get("name", tag), dict[str, "MetaNode"]()
        into = self._about[-1] if self._about else self.net.about
        if key in into:
            raise bad(f"{key!r} is said twice in what the converter says")
        into[key] = attributes.get("value", inside)
        self._about.append(inside)

    def _end(self, tag: str) -> None:
        self.position = self.parser.CurrentByteIndex
        self._path.pop()
        if self._about:
            self._about.pop()
        elif tag == "layer" and self._path[-1:] == ["layers"]:
            self._layers.pop()

    def _text(self, text: str) -> None:
        if self._path[-1:] == ["dim"] and self._layers and self._layers[-1].type in _WITH_DIMS:
            layer = self._layers[-1]
            if self._path[-3] == _side(layer) and len(layer.dims) < MAX_RANK:
                layer.dims.append(text[:_MOST_DIGITS])


def _side(layer: Layer) -> str:
    """Where what it gives is said."""
    return "input" if layer.type == "Result" else "output"
