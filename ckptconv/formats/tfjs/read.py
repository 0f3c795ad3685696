"""Reader of TensorFlow.js: layers models, graph models, and manifests of weights without a model.

    model.json              the model, and a list of its weights (`manifest`); or the folder that it is in
    group1-shard1of2.bin …  the bytes of the weights, little-endian, one after another; a weight may begin in one file
                            and end in the next

A weight that is stored in fewer bits is read as what TensorFlow.js computes from it on loading (`values`), and that is
reported. Texts become metadata; each is stored as a u32 of its length and its bytes. The Keras configuration of a
layers model is metadata, as ``model_config``; the graph of a graph model stays behind. Weights of the group
``optimizer`` are extras.

Refused: files that are missing, outside of this folder, or too short; names that occur twice.

Source: tfjs-core/src/io/io_utils.ts, weights_loader.ts; tensorflowjs/write_weights.py.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import MetaNode, StateDict, TensorRef
from ckptconv.core.names import free_key
from ckptconv.core.notes import Notes
from ckptconv.core.report import Finding
from ckptconv.core.strict_json import check_depth
from ckptconv.core.text import plural, quoted
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError, located
from ckptconv.formats.code.keras import findings_in, programs_in
from ckptconv.formats.graphs.notes import operator_counts, stays_behind
from ckptconv.formats.tensors.headers import header_info
from ckptconv.formats.tensors.texts import MAX_TEXT_RANK, nested_texts
from ckptconv.formats.tfjs.group import GroupBytes
from ckptconv.formats.tfjs.manifest import Manifest, Weight, bad, looks_like_one, read_manifest
from ckptconv.formats.tfjs.values import unpacked
from ckptconv.io.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.source import Source

DTYPES = {
    "float32": DType.F32, "int32": DType.I32, "bool": DType.BOOL, "complex64": DType.C64,
    "float16": DType.F16, "uint8": DType.U8, "uint16": DType.U16,
}  # fmt: skip
STRING = "string"
USUAL, MANIFEST = "model.json", "weights_manifest.json"
MAX_TEXT = 64 << 20
"""The most bytes of texts, which are read when the model is opened."""


def claims(source: Source | Folder) -> bool:
    """Whether this is a document of TensorFlow.js, or a folder with one."""
    if isinstance(source, Folder):
        name = _model_in(source)
        return name is not None and claims(source.open(name))
    return source.once(looks_like_one, lambda: looks_like_one(source))


def read(source: Source | Folder) -> Checkpoint:
    """Open the model: read its document, and of its weights only texts.

    Raises CorruptFileError, LimitError, UnsupportedError, FileAccessError.
    """
    if not isinstance(source, Folder):
        return _Reader(Folder.around(source)).read(source)
    name = _model_in(source)
    if name is None:
        raise UnsupportedError(f"there is no {USUAL} or …{MANIFEST} in it, or several", hint="name a file in it")
    document = source.open(name)
    with located(document.path):
        return _Reader(source).read(document)


def _model_in(folder: Folder) -> str | None:
    """The name of a folder's document; None if there is none, or several."""
    if USUAL in folder.names:
        return USUAL
    manifests = [name for name in folder.names if name.endswith(MANIFEST)]
    return manifests[0] if len(manifests) == 1 else None


class _Reader:
    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.tensors: dict[str, LazyTensor] = {}
        self.extras: dict[str, LazyTensor] = {}
        self.strings: dict[str, MetaNode] = {}
        self.stored: Counter[str] = Counter()
        self.text_left = MAX_TEXT
        self.findings: list[Finding] = []

    def read(self, document: Source) -> Checkpoint:
        manifest = read_manifest(document)
        opened = self._open(document, manifest)
        for group in manifest.groups:
            data = GroupBytes([opened[file] for file in group.files])
            for weight in group.weights:
                self._add_weight(weight, data)
            if data.left:
                message = f"{quoted(group.files, 3)}: {plural(data.left, 'byte')} belong to no tensor"
                self.findings.append(Finding("unused-bytes", "warning", "", message))
        graph, metadata = _graph_and_metadata(manifest.other_entries)
        self._add_findings(graph)
        programs = tuple(programs_in(metadata))
        return Checkpoint(
            self.tensors, extras=self.extras, root=self._root(metadata), format="tfjs",
            notes=Notes(source="tfjs", graph=graph, programs=programs),
            findings=(*self.findings, *findings_in(metadata)), file=self.folder,
        )  # fmt: skip

    def _open(self, document: Source, manifest: Manifest) -> dict[str, Source]:
        names = dict.fromkeys(file for group in manifest.groups for file in group.files)
        opened, missing = self.folder.open_all(names)
        if missing:
            raise CorruptFileError(
                f"{plural(len(missing), 'file')} of its weights missing: {quoted(missing, 6)}", path=document.path,
                hint="a TensorFlow.js model is moved together with its .bin files",
            )  # fmt: skip
        return opened

    def _add_weight(self, weight: Weight, data: GroupBytes) -> None:
        name = weight.name
        if name in self.tensors or name in self.extras or name in self.strings:
            raise bad(f"the weight {name!r} comes twice")
        if weight.dtype == STRING:
            self.strings[name] = self._read_texts(weight, data)
            return
        kind = weight.stored or weight.dtype
        info = header_info(repr(name), kind, weight.shape, dtypes=DTYPES, library="TensorFlow.js 4.22", bad=bad)
        tensor = data.take(info, name)
        if weight.stored:
            self.stored[weight.stored] += 1
            tensor = unpacked(tensor, DTYPES[weight.dtype], weight.scale)
        if weight.optimizer:
            self.extras[name] = tensor
        else:
            self.tensors[name] = tensor

    def _read_texts(self, weight: Weight, data: GroupBytes) -> MetaNode:
        count = prod(weight.shape)
        if count * 4 > data.left or len(weight.shape) > MAX_TEXT_RANK:
            raise bad(f"{weight.name!r} has more texts, or dimensions of them, than can be")
        texts = []
        for _ in range(count):
            length = int.from_bytes(data.bytes(4), "little")
            self.text_left -= length
            if self.text_left < 0:
                raise LimitError(f"its texts have more than {MAX_TEXT:,} bytes")
            texts.append(data.bytes(length))
        return nested_texts(texts, weight.shape) if texts else []

    def _add_findings(self, graph: MetaNode) -> None:
        if isinstance(graph, dict):
            self.findings.append(stays_behind(f"the graph of {graph['nodes']} nodes"))
        for stored, count in self.stored.items():
            message = f"{plural(count, 'weight')} stored as {stored}: read as what TensorFlow.js makes of them"
            self.findings.append(Finding("read-as", "info", "", message))

    def _root(self, metadata: dict[Hashable, MetaNode]) -> MetaNode:
        items: list[tuple[Hashable, MetaNode]] = list(metadata.items())
        if self.strings:
            items.append(("strings", self.strings))
        items += [(name, TensorRef(name)) for name in self.extras]
        entries: dict[Hashable, MetaNode] = {}
        for key, value in items:
            entries[free_key(str(key), entries)] = value
        if not entries:
            return StateDict()
        return {**entries, free_key("state_dict", entries): StateDict(container="dict")}


def _graph_and_metadata(entries: dict[str, Json]) -> tuple[MetaNode, dict[Hashable, MetaNode]]:
    """The facts about a graph model's graph, and the metadata in the document's other entries.

    The metadata of a layers model is its Keras configuration, under the keys that Keras' own files have.
    """
    topology = entries.get("modelTopology")
    metadata: dict[Hashable, MetaNode] = {key: value for key, value in entries.items() if key != "modelTopology"}
    if "trainingConfig" in metadata:
        metadata[free_key("training_config", metadata)] = metadata.pop("trainingConfig")
    graph: MetaNode = None
    if isinstance(topology, dict) and isinstance(nodes := topology.get("node"), list):
        graph = operator_counts(Counter(str(node.get("op")) for node in nodes if isinstance(node, dict)))
    elif isinstance(topology, dict) and "model_config" in topology:
        metadata = {**{key: value for key, value in topology.items() if key not in metadata}, **metadata}
    elif topology is not None:
        metadata[free_key("model_config", metadata)] = topology
    check_depth(metadata, "what it says of the model")
    return graph, metadata
