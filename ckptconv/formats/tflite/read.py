"""Reader of TensorFlow Lite: the constants of a model's graphs as a state_dict. The graphs stay behind.

    FlatBuffer      "TFL3" at byte 4; its root is a Model of version 3 (`schema`)
    buffers         the data of constants, in the FlatBuffer, or after it if the file has more than 2 GiB
    zip archive     associated files (labels, vocabularies), which some models have appended

A tensor of a graph whose buffer has data is a tensor of the model; the others are computed. Names are the graph's: one
that occurs twice gets a number (``w#2``), those of further subgraphs have the subgraph's name as a prefix, and a tensor
without a name is called by its number. Constants that are shapes or axes are stored like weights, and read as such.
Layouts are those of TensorFlow Lite's operators, into which its converter has brought them: outputs × inputs of a dense
layer, outputs × height × width × inputs of a convolution, 1 × height × width × channels of a depthwise one.

An interpreter that also has TensorFlow's operators (``Flex…``), as the one in TensorFlow's package had up to 2.17 or
later, runs those that write files.

Tensors of strings become metadata, as lists of bytes, and so do the description and the metadata entries.

Refused by name: versions before 3, external buffers, sparse tensors of fewer than 8 bits. Resources and variants with
data are reported. Sources: tensorflow/compiler/mlir/lite/schema/schema.fbs; tensorflow/lite/core/
interpreter_builder.cc; tensorflow/lite/schema/schema_utils.cc; tensorflow.org/lite/models/convert/metadata.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import MetaNode, Opaque, StateDict
from ckptconv.core.notes import Notes, Program
from ckptconv.core.report import Finding, unreadable
from ckptconv.core.text import listed, quoted
from ckptconv.errors import CkptconvError, LimitError, UnsupportedError
from ckptconv.formats.code import operators
from ckptconv.formats.graphs.notes import stays_behind
from ckptconv.formats.tflite.facts import custom_options, graph_facts, tensor_at
from ckptconv.formats.tflite.flatbuffer import U32, FlatBuffer, Table, Vector, bad
from ckptconv.formats.tflite.schema import OTHERS, STRING, VERSION, Model, Pair, SubGraph, Tensor
from ckptconv.formats.tflite.sparse import build_sparse
from ckptconv.formats.tflite.tensors import (
    Affine,
    Buffers,
    Header,
    build_dense,
    describe_quantization,
    is_scaled,
    part_names,
    read_affine,
    read_header,
    read_strings,
    tensor_info,
)
from ckptconv.io.limits import MAX_TENSORS, MAX_TFLITE_TEXT
from ckptconv.io.zip import END_MAGIC, ZipArchive

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ckptconv.core.composite import Composite
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.tflite.flatbuffer import Tables
    from ckptconv.io.source import Source

RUNTIME = "min_runtime_version"
"""The metadata entry that is text, padded with NULs to 16 bytes."""

_ZIP_TAIL = 22


def claims(source: Source) -> bool:
    """Whether it has the identifier TFL3."""
    return source.size >= 8 and bytes(source.read_at(4, 4)) == b"TFL3"


def read(source: Source) -> Checkpoint:
    """Open the model: read its tables, and of its buffers only texts, metadata and single scales.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    if not claims(source):
        raise bad("the identifier TFL3 is missing")
    return _Reader(source).read()


def _describe(affine: Affine) -> dict[str, MetaNode]:
    axis: dict[str, MetaNode] = {} if affine.axis is None else {"axis": affine.axis}
    return {"scheme": affine.scheme, **axis}


class _Reader:
    """Reads one model.

    repeats: how often a name was taken already.
    names:   of the model's tensors, by graph and number.
    headers: the same tensors' headers.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.buffer = FlatBuffer(source)
        self.model = self.buffer.root()
        version = self.model.number(Model.VERSION, U32)
        if version != VERSION:
            raise UnsupportedError(
                f"version {version} of TensorFlow Lite's schema is not read", hint="convert the model again"
            )
        self.buffers = Buffers(self.model.tables(Model.BUFFERS), source.size)
        self.graphs = list(self.model.tables(Model.SUBGRAPHS))
        if not self.graphs:
            raise bad("it holds no graph")
        self.tables: list[Tables] = [graph.tables(SubGraph.TENSORS) for graph in self.graphs]
        if sum(map(len, self.tables)) > MAX_TENSORS:
            raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")
        self.text_left = MAX_TFLITE_TEXT
        self.taken: set[str] = set()
        self.repeats: Counter[str] = Counter()
        self.names: dict[tuple[int, int], str] = {}
        self.headers: dict[tuple[int, int], Header] = {}
        self.strings: dict[str, MetaNode] = {}
        self.quantization: dict[str, MetaNode] = {}
        self.findings: list[Finding] = []

    def read(self) -> Checkpoint:
        for number, graph in enumerate(self.graphs):
            prefix = f"{graph.text(SubGraph.NAME) or f'subgraph{number}'}." if number else ""
            for index, table in enumerate(self.tables[number]):
                self._note_tensor((number, index), table, prefix)
        tensors: dict[str, LazyTensor] = {}
        composites: dict[str, Composite] = {}
        places = Counter(header.place for header in self.headers.values())
        for key, header in self.headers.items():
            self._build(key, header, tensors, composites, shared=places[header.place] > 1)
        facts = graph_facts(self.model, self.graphs, self.tables)
        self.findings.append(stays_behind(f"the graph of {facts['nodes']} nodes"))
        self._report_associated_files()
        return Checkpoint(
            tensors, composites=composites, root=self._root(), format="tflite",
            notes=Notes(source="tflite", graph=facts, programs=self._programs()), findings=tuple(self.findings),
            file=self.source,
        )  # fmt: skip

    def _note_tensor(self, key: tuple[int, int], table: Table, prefix: str) -> None:
        """Note the header of a tensor, if it has data."""
        data = self.buffers[table.number(Tensor.BUFFER, U32)]
        if data is None:
            return
        name = self._unique_name(prefix + (table.text(Tensor.NAME) or f"tensor{key[1]}"))
        header = read_header(table, name, data)
        if header.code == STRING:
            self.strings[name] = read_strings(header, self._text(data))
        elif header.code in OTHERS:
            self.findings.append(unreadable(name, OTHERS[header.code]))
        elif data.count or header.sparsity or not tensor_info(header).nbytes:  # else an empty buffer means no data
            self.names[key], self.headers[key] = name, header

    def _unique_name(self, name: str) -> str:
        unique = name
        while unique in self.taken:
            self.repeats[name] += 1
            unique = f"{name}#{self.repeats[name] + 1}"
        self.taken.add(unique)
        return unique

    def _build(
        self, key: tuple[int, int], header: Header, tensors: dict[str, LazyTensor], composites: dict[str, Composite],
        *, shared: bool,
    ) -> None:  # fmt: skip
        """Build the tensor, and its scale and zero point if it is quantized. `shared`: whether others have its data."""
        name, info, table = header.name, tensor_info(header), header.table.table(Tensor.QUANTIZATION)
        affine = read_affine(header, table) if table and is_scaled(info.dtype) else None
        alias: Hashable = (id(self.source), header.place, key if header.sparsity else None)
        if affine:
            alias = (alias, affine.read(self.buffer) if shared else name)
        tensors[name] = build_sparse(header, header.sparsity, alias) if header.sparsity else build_dense(header, alias)
        description: MetaNode = None
        if table:
            description = describe_quantization(table, lambda number: self._name(key[0], number), self._text)
        if affine:
            names = part_names(name, self.taken)
            tensors |= {names[role]: part for role, part in affine.parts(self.buffer, alias).items()}
            composite = affine.composite(names, info)
            if composite:
                composites[name] = composite
            else:
                description = _describe(affine)
        if description:
            self.quantization[name] = description

    def _name(self, graph: int, number: int) -> str | None:
        """The name of a tensor of a graph; None if it does not belong to the model."""
        tensor_at(self.tables[graph], max(number, 0))
        return self.names.get((graph, number))

    def _text(self, data: Vector) -> bytes:
        """Read bytes that are kept in memory, within the limit for all of them."""
        self.text_left -= data.nbytes
        if self.text_left < 0:
            raise LimitError(f"its texts and metadata have more than {MAX_TFLITE_TEXT:,} bytes")
        return self.buffer.read(data.start, data.nbytes)

    def _programs(self) -> tuple[Program, ...]:
        """TensorFlow's operators that write files, which an interpreter with these operators runs."""
        options = b"\n".join(map(self._text, custom_options(self.model, self.graphs)))
        if read := operators.reading(options):
            message = f"its graph reads files as it runs: {quoted(read)}"
            self.findings.append(Finding("reads-file", "warning", "", message, found=read[0]))
        names = operators.writing(options)
        return tuple(Program("graph", Opaque(f"tensorflow.raw_ops.{name}", "called"), "TensorFlow") for name in names)

    def _root(self) -> MetaNode:
        values: dict[str, MetaNode] = {
            "description": self.model.text(Model.DESCRIPTION),
            "metadata": self._metadata(),
            "strings": self.strings,
            "quantization": self.quantization,
        }
        metadata = {key: value for key, value in values.items() if value}
        return {"state_dict": StateDict(), **metadata} if metadata else StateDict()

    def _metadata(self) -> dict[str, MetaNode]:
        entries: dict[str, MetaNode] = {}
        for entry in self.model.tables(Model.METADATA):
            name, data = entry.text(Pair.NAME), self.buffers[entry.number(Pair.NUMBER, U32)]
            value = self._text(data) if data else b""
            if name in entries:
                raise bad(f"the entry of metadata {name!r} comes twice")
            entries[name] = value.rstrip(b"\0").decode("utf-8", "replace") if name == RUNTIME else value
        return entries

    def _report_associated_files(self) -> None:
        """Add a finding if files are appended as a zip archive."""
        if self.source.size < _ZIP_TAIL or bytes(self.source.read_at(self.source.size - _ZIP_TAIL, 4)) != END_MAGIC:
            return
        try:
            names = listed([repr(name) for name in ZipArchive(self.source).entries], 6)
        except CkptconvError as error:
            names = f"which does not open: {error.message}"
        if not names:  # some writers of metadata leave an empty archive
            return
        message = f"a zip archive of files is appended to it, and stays behind: {names}"
        self.findings.append(Finding("associated-files", "warning", "", message))
