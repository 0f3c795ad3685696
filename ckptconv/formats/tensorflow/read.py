"""Reader of TensorFlow's checkpoints: reads the index, and of the data files only texts.

    PREFIX.index                    a sorted table (`table`): "" → a header, a tensor's name → where its bytes are
    PREFIX.data-00000-of-0000N …    the bytes of the tensors, one after another
    checkpoint                      text: which prefix is the latest
    saved_model.pb                  a SavedModel's graph (`saved_model`), beside a folder, variables, with these files

Names are TensorFlow's, slashes included. `tf.train.Checkpoint` names a variable after the path to it through its
objects (``model/layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE``), and keeps the variable's own name
(``dense/kernel``) in its object graph: that name is used here, if no other variable has it. Variables that Keras
exports twice are read once: the index shows that they are the same (name, type, shape, checksum). An optimizer's
variables are extras; texts, of which the object graph is one, are metadata. The CRC-32C of a tensor is checked while
its bytes are read, that of texts when the checkpoint is opened.

A tensor may be stored in slices (`bundle`), each under its own key. Refused by name: the previous version of the format
(V1, one file), other files of the same table format (LevelDB's), compressed blocks, which TensorFlow never writes,
four-bit integers, and values that are not tensors (resources, variants).

Sources: tensorflow/core/util/tensor_bundle (tensor_bundle.cc, naming.cc), protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import MetaNode, StateDict, TensorRef
from ckptconv.core.notes import Notes
from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, depends_of
from ckptconv.core.text import listed
from ckptconv.errors import (
    COPY_ALL_AGAIN,
    CkptconvError,
    CorruptFileError,
    FileAccessError,
    LimitError,
    UnsupportedError,
    UsageError,
    located,
)
from ckptconv.formats.tensorflow import saved_model
from ckptconv.formats.tensorflow.bundle import Entry, Extent, Header, read_entry, read_header, slice_key, variable_names
from ckptconv.formats.tensorflow.table import FOOTER, MAGIC, bad, entries
from ckptconv.formats.tensorflow.texts import read_texts
from ckptconv.formats.tensors.texts import MAX_TEXT_RANK
from ckptconv.io.folder import Folder
from ckptconv.io.gather import laid_out
from ckptconv.io.limits import MAX_DIM, MAX_TENSORS
from ckptconv.io.mosaic import Mosaic, Tile, check_tiling

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from ckptconv.io.source import Source

DTYPES = {
    1: DType.F32, 2: DType.F64, 3: DType.I32, 4: DType.U8, 5: DType.I16, 6: DType.I8, 8: DType.C64, 9: DType.I64,
    10: DType.BOOL, 14: DType.BF16, 17: DType.U16, 18: DType.C128, 19: DType.F16, 22: DType.U32, 23: DType.U64,
    24: DType.F8_E5M2, 25: DType.F8_E4M3, 26: DType.F8_E4M3FNUZ, 28: DType.F8_E5M2FNUZ,
    11: DType.I8, 12: DType.U8, 13: DType.I32, 15: DType.I16, 16: DType.U16,
}  # fmt: skip
"""The element types, by the numbers of tensorflow/core/framework/types.proto."""

QUANTIZED = {11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16"}
"""Quantized types, whose scale is not in the checkpoint: they are read as plain integers."""

STRING = 7
_OTHERS = {
    20: "a resource",
    21: "a variant",
    27: "float8_e4m3b11fnuz",
    29: "int4",
    30: "uint4",
    31: "int2",
    32: "uint2",
}

INDEX = ".index"
STATE = "checkpoint"
_LATEST = re.compile(r'^model_checkpoint_path:\s*"([^"\n]*)"', re.MULTILINE)
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_NOT_THE_MODEL = re.compile(
    r"optimizer/(?!_trainable_variables/)|.*/\.OPTIMIZER_SLOT/|save_counter/|keras_api/metrics/|global_step$|beta\d_power"
)
"""Keys of an optimizer's variables, of metrics, and of counters. TensorFlow names a variable after the first path that
it finds, so that with Keras 3 the path to the model's own variables may lead through the optimizer.
"""

EXPORTED, EXPORTED_AGAIN = "variables/", "_all_variables/"
"""The prefixes of the variables that Keras' ``Model.export`` stores, and of their copies below its layers."""

MAX_TEXT = 64 << 20
"""The most bytes of all texts together, which are read when the checkpoint is opened."""


def claims(source: Source | Folder) -> bool:
    """Whether it ends with the table's magic number, or is a folder with the index of a checkpoint."""
    if isinstance(source, Folder):
        return bool(_prefixes(saved_model.variables_of(source) or source))
    return source.size >= FOOTER and bytes(source.read_at(source.size - len(MAGIC), len(MAGIC))) == MAGIC


def read(source: Source | Folder) -> Checkpoint:
    """Open the checkpoint of an index, or the latest one in a folder, according to its file ``checkpoint``.

    Raises CorruptFileError, LimitError, UnsupportedError, FileAccessError if a data file is missing, and UsageError for
    a folder with several.
    """
    if not isinstance(source, Folder):
        return _open(Folder.around(source), source)
    variables = saved_model.variables_of(source)
    folder = variables or source
    checkpoint = _open(folder, folder.open(_latest(folder) + INDEX))
    return saved_model.with_graph(checkpoint, source) if variables else checkpoint


def _open(folder: Folder, index: Source) -> Checkpoint:
    with located(index.path):
        return _Reader(folder, index).read()


def _prefixes(folder: Folder) -> list[str]:
    """The names, without ``.index``, of the index files that have data files beside them."""
    names = folder.names
    found = [name.removesuffix(INDEX) for name in names if name.endswith(INDEX)]
    return [prefix for prefix in found if any(name.startswith(f"{prefix}.data-0") for name in names)]


def _latest(folder: Folder) -> str:
    prefixes = _prefixes(folder)
    if len(prefixes) > 1 and STATE in folder.names:
        state = folder.open(STATE)
        text = bytes(state.read_at(0, min(state.size, 1 << 20))).decode("utf-8", "replace")
        match = _LATEST.search(text)
        if match and (latest := match[1].rpartition("/")[2]) in prefixes:
            return latest
    if not prefixes:
        raise UsageError("the folder has no index of a checkpoint", path=folder.path, hint="name a file in it")
    if len(prefixes) > 1:
        shown = listed([prefix + INDEX for prefix in prefixes], 6)
        raise UsageError(
            f"the folder holds {len(prefixes)} checkpoints: {shown}", path=folder.path,
            hint=f"name one of them, such as {folder.path / prefixes[0]!s}{INDEX}",
        )  # fmt: skip
    return prefixes[0]


class _Reader:
    def __init__(self, folder: Folder, index: Source) -> None:
        self.folder, self.index = folder, index
        self.prefix = index.path.name.removesuffix(INDEX)
        self.text_left = MAX_TEXT
        self.findings: list[Finding] = []

    def read(self) -> Checkpoint:
        rows = iter(entries(self.index))
        first = next(rows, None)
        if first is None or first[0]:
            raise UnsupportedError(
                "this is a sorted table, but not a TensorFlow checkpoint", hint="it may be a LevelDB database"
            )
        try:
            self.header: Header = read_header(first[1])
        except (CorruptFileError, LimitError) as error:
            raise UnsupportedError(
                f"the table is not a checkpoint in TensorFlow's second version: {error.message}",
                hint="load it with TensorFlow, and save it again",
            ) from error
        self.entries = self._parse_entries(rows)
        tensors: dict[str, LazyTensor] = {}
        texts: dict[str, MetaNode] = {}
        for key, entry in self.entries.items():
            if key[:1] == b"\0":  # a slice, which its tensor's entry lists
                continue
            name = self._name(key)
            if entry.dtype == STRING:
                texts[name] = self._read_texts(name, entry)
            else:
                tensors[name] = self._build_tensor(name, key, entry)
        return self._checkpoint(tensors, texts)

    def _parse_entries(self, rows: Iterable[tuple[bytes, bytes]]) -> dict[bytes, Entry]:
        entries_by_key: dict[bytes, Entry] = {}
        for key, value in rows:
            entries_by_key[key] = read_entry(value)
            if len(entries_by_key) > MAX_TENSORS:
                raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")
        return entries_by_key

    def _name(self, key: bytes) -> str:
        try:
            return key.decode("utf-8")
        except UnicodeDecodeError as error:
            raise bad(f"the name {key!r} is not UTF-8") from error

    def _checkpoint(self, tensors: dict[str, LazyTensor], texts: dict[str, MetaNode]) -> Checkpoint:
        graph = texts.get(GRAPH)
        variables = variable_names(graph) if isinstance(graph, bytes) else {}
        for key in self._find_copies(variables):
            tensors.pop(key, None)
        counts = Counter(name for key, name in variables.items() if key in tensors)
        names = {key: name for key, name in variables.items() if counts[name] == 1 and name not in tensors}
        extra_keys = {key for key in tensors if _NOT_THE_MODEL.match(key) or _is_slot(key, tensors)}
        extras = {names.get(key, key): tensor for key, tensor in tensors.items() if key in extra_keys}
        model = {names.get(key, key): tensor for key, tensor in tensors.items() if key not in extra_keys}
        root: MetaNode = StateDict()
        if texts or extras:
            root = {"state_dict": root, **texts, **{name: TensorRef(name) for name in extras}}
        return Checkpoint(
            model, extras=extras, root=root,
            format="tensorflow", notes=Notes(source="tensorflow"), findings=tuple(self.findings), file=self.folder,
        )  # fmt: skip

    def _find_copies(self, names: Mapping[str, str]) -> list[str]:
        """The keys under which Keras' ``Model.export`` stores variables a second time. Adds a finding about them."""
        exported = Counter(self._content(key, name) for key, name in names.items() if key.startswith(EXPORTED))
        copies = []
        for key, name in names.items():
            content = self._content(key, name)
            if key.startswith(EXPORTED_AGAIN) and content is not None and exported[content]:
                exported[content] -= 1
                copies.append(key)
        if copies:
            count = "a variable is" if len(copies) == 1 else f"{len(copies):,} variables are"
            message = f"{count} stored twice, as {EXPORTED}… and {EXPORTED_AGAIN}…, and read once"
            self.findings.append(Finding("stored-twice", "info", copies[0], message))
        return copies

    def _content(self, key: str, name: str) -> Hashable:
        """What the index states about a variable; equal for copies of one. None if it states too little."""
        entry = self.entries.get(key.encode())
        if entry is None or entry.slices:
            return None
        return name, entry.dtype, entry.shape, entry.size, entry.crc32c

    def _span(self, name: str, entry: Entry) -> ByteSpan:
        """Where an entry's bytes are. Opens the data file."""
        if entry.shard >= self.header.shards:
            raise bad(f"{name!r} is in the file {entry.shard} of {self.header.shards}")
        file = f"{self.prefix}.data-{entry.shard:05d}-of-{self.header.shards:05d}"
        try:
            data = self.folder.open(file)
        except FileAccessError as error:
            raise FileAccessError(
                f"{name!r} is in {file!r}, which does not open: {error.message}", path=self.folder.path / file,
                hint=COPY_ALL_AGAIN,
            ) from error  # fmt: skip
        if entry.offset > data.size or entry.size > data.size - entry.offset:
            raise CorruptFileError(
                f"{file!r} is cut short: {name!r} should end at {entry.offset + entry.size:,}, and it has {data.size:,}"
                " bytes", hint=COPY_ALL_AGAIN,
            )  # fmt: skip
        return ByteSpan(data, entry.offset, entry.size, crc32c=entry.crc32c)

    def _info(self, name: str, entry: Entry, shape: tuple[int, ...]) -> TensorInfo:
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            what = _OTHERS.get(entry.dtype, f"of an unknown type, {entry.dtype}")
            raise UnsupportedError(f"{name!r} is {what}", hint="load it with TensorFlow, and save it without that")
        if prod(shape) * dtype.bits > MAX_DIM:
            raise bad(f"{name!r} takes more bytes than a file can have")
        return TensorInfo.of(dtype, shape)

    def _build_tensor(self, name: str, key: bytes, entry: Entry) -> LazyTensor:
        info = self._info(name, entry, entry.shape)
        if entry.dtype in QUANTIZED:
            message = f"{name!r} is {QUANTIZED[entry.dtype]}, whose scale is not in the file: read as {info.dtype}"
            self.findings.append(Finding("read-as", "info", name, message, QUANTIZED[entry.dtype], info.dtype.name))
        if entry.slices:
            return self._join_slices(name, key, entry, info)
        return self._tensor_in_file(name, entry, info)

    def _tensor_in_file(self, name: str, entry: Entry, info: TensorInfo) -> LazyTensor:
        span = self._span(name, entry)
        if span.length != info.nbytes:
            raise bad(f"{name!r} has {span.length:,} bytes, and its type and shape ask for {info.nbytes:,}")
        return laid_out(info, span, (self.index.path, name), swapped=self.header.swapped)

    def _join_slices(self, name: str, key: bytes, entry: Entry, info: TensorInfo) -> LazyTensor:
        """Make a tensor that is stored in slices."""
        tiles = []
        for extents in entry.slices:
            begin, size = _start_and_size(name, entry.shape, extents)
            part = self.entries.get(slice_key(key, extents))
            if part is None or part.slices or part.dtype != entry.dtype or part.shape != size:
                raise bad(f"a slice of {name!r} is missing, or of another type or shape")
            tiles.append(Tile(begin, size, self._tensor_in_file(name, part, self._info(name, part, size))))
        try:
            check_tiling(entry.shape, [(tile.begin, tile.size) for tile in tiles])
        except CkptconvError as error:
            raise bad(f"the slices of {name!r}: {error.message}") from error
        depends = depends_of(tile.tensor for tile in tiles)
        reader = Mosaic(entry.shape, info.dtype.bits // 8, tiles)
        return LazyTensor(info, reader, None, (self.index.path, name), depends)

    def _read_texts(self, name: str, entry: Entry) -> MetaNode:
        """Read an array of texts."""
        span = self._span(name, entry)
        self.text_left -= span.length
        if self.text_left < 0:
            raise LimitError(f"its texts have more than {MAX_TEXT:,} bytes", hint="save it without them")
        if entry.slices or prod(entry.shape) > span.length:
            raise bad(f"{name!r} has more texts than bytes, or slices of them")
        if len(entry.shape) > MAX_TEXT_RANK:
            raise LimitError(f"{name!r} has {len(entry.shape)} dimensions of texts", hint="save it without that")
        if not span.length:
            return []
        return read_texts(name, bytes(span.file.read_at(span.offset, span.length)), entry, swapped=self.header.swapped)


def _is_slot(key: str, tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether a TensorFlow 1 optimizer, or moving average, keeps it for a variable.

    Such a slot has the variable's shape, and a name below the variable's: ``kernel/Adam_1``.
    """
    variable = tensors.get(key.rpartition("/")[0])
    return variable is not None and variable.info.shape == tensors[key].info.shape


def _start_and_size(
    name: str, shape: tuple[int, ...], extents: tuple[Extent, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where a slice begins, and its size. That it is inside of the shape is checked later, with all other slices."""
    if len(extents) != len(shape):
        raise bad(f"a slice of {name!r} has {len(extents)} dimensions, and the tensor {len(shape)}")
    pairs = zip(extents, shape, strict=True)
    return tuple(start for start, _ in extents), tuple(n if length is None else length for (_, length), n in pairs)
