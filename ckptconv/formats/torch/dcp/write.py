"""Writer for torch.distributed.checkpoint's folders, without torch and without a process group.

    __0_N.distcp   every value, then every tensor: each a zip archive as torch.save writes it
    .metadata      the listing

N is 0, or the first number for which there is no file yet: a folder that is replaced keeps its old files until the new
``.metadata`` has its name. Tied tensors are listed under each name and stored once. A quantized or sparse tensor is
listed as its parts: next to one another in a state_dict, elsewhere in a dict in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ckptconv.core.arrays import TORCH_NAMES
from ckptconv.core.composite import VALUES
from ckptconv.core.metadata import MetaNode, StateDict, TensorRef, TorchSize, TorchValue, rebuilt
from ckptconv.core.record import Record
from ckptconv.core.strided import contiguous_strides
from ckptconv.errors import CkptconvError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.torch.dcp import MAIN
from ckptconv.formats.torch.dcp.listing import FILESYSTEM, METADATA, parse
from ckptconv.formats.torch.dcp.tree import Leaf, flatten
from ckptconv.formats.torch.writer.emit import DCP_GLOBALS, GLOBALS, Emitter
from ckptconv.formats.torch.writer.spell import dense_function, spell_dense
from ckptconv.formats.torch.writer.storages import View, torch_shape, writable
from ckptconv.formats.torch.writer.write import members_by_prefix
from ckptconv.io.checksum import crc32
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_PICKLE_BYTES
from ckptconv.io.stream import Job, Streamer
from ckptconv.io.zip_writing import RECORD_ALIGNMENT, directory, directory_size, end_of, local_header, plan_entries

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.formats.base import WriteOptions
    from ckptconv.io.target import Target
    from ckptconv.io.zip_writing import Planned

VERSION = "1.0.0"
"""The version that torch writes (CURRENT_DCP_VERSION)."""

PICKLE, STORAGE = b"archive/data.pkl", b"archive/data/0"
_BEFORE = {
    b"archive/.format_version": b"1",
    b"archive/.storage_alignment": str(RECORD_ALIGNMENT).encode("ascii"),
    b"archive/byteorder": b"little",
}
_AFTER = {b"archive/version": b"3\n"}
_SMALL_CRCS = {name: crc32(data) for name, data in (_BEFORE | _AFTER).items()}


@dataclass(slots=True)
class _Layout:
    """The layout of an archive, which is the same for all tensors of the same size."""

    entries: list[Planned]
    storage: Planned | None
    size: int


@lru_cache(maxsize=1024)
def _layout(pickle: int, storage: int | None) -> _Layout:
    """The layout of an archive with a pickle and a storage of so many bytes; None for no storage."""
    sizes = {PICKLE: pickle, **{name: len(data) for name, data in _BEFORE.items()}}
    if storage is not None:
        sizes[STORAGE] = storage
    sizes |= {name: len(data) for name, data in _AFTER.items()}
    entries = plan_entries([(name.decode("ascii"), size) for name, size in sizes.items()])
    placed = next((entry for entry in entries if entry.name == STORAGE), None)
    return _Layout(entries, placed, end_of(entries) + directory_size(entries))


@dataclass(slots=True)
class _Blob:
    """An archive: where it starts, its pickle, and the tensor whose elements are its storage."""

    start: int
    pickle: bytes
    layout: _Layout
    name: str = ""
    tensor: LazyTensor | None = None


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint; `target` is the folder's ``.metadata``.

    Raises DamagedTensorError if a source's tensor fails its checksum.
    """
    names, old = _existing(target)
    data_name = next(name for i in range(len(names) + 1) if (name := f"__0_{i}.distcp") not in names)
    plan = _Plan(_with_parts(checkpoint))
    data = target.beside(data_name)
    data.reserve(plan.size)
    jobs = [
        Job(blob.name, blob.tensor, blob.start + blob.layout.storage.data)
        for blob in plan.blobs
        if blob.tensor is not None and blob.layout.storage is not None
    ]
    sums = iter(Streamer(data, crc=True, content=False, progress=options.progress).run(jobs))
    for blob in plan.blobs:
        _write_around(data, blob, next(sums).crc32 if blob.tensor is not None else 0)
    listing = plan.listing(data_name)
    target.reserve(len(listing))
    target.write_at(0, listing)
    target.supersede(old)
    return WriteResult(plan.size + len(listing))


def _with_parts(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the parts of quantized and sparse tensors in its tree, in place of the values alone."""
    alone = {composite.parts[VALUES]: composite.parts for composite in checkpoint.composites.values()}
    if not alone:
        return checkpoint

    def parts(node: MetaNode) -> MetaNode:
        if not isinstance(node, TensorRef) or node.name not in alone:
            return node
        return {role: TensorRef(name) for role, name in alone[node.name].items()}

    return checkpoint.replaced(composites={}, root=rebuilt(checkpoint.root, parts))


def _existing(target: Target) -> tuple[frozenset[str], list[str]]:
    """The files that are in the folder already, and those of them that its ``.metadata`` names."""
    with Folder(target.path.parent) as folder:
        names = frozenset(folder.names)
        try:
            entries = parse(folder.open(MAIN).read_all(MAX_PICKLE_BYTES)).entries
        except CkptconvError:  # nothing is known of these files, and they stay
            return names, []
        used = {chunk.place.file for entry in entries for chunk in entry.chunks if chunk.place is not None}
        return names, sorted((used & names) - {MAIN})


def _write_around(data: Target, blob: _Blob, crc: int) -> None:
    """Write all of an archive but its storage, whose checksum is `crc`: what lies before it, and what lies behind."""
    records = {PICKLE: blob.pickle, **_BEFORE, STORAGE: b"", **_AFTER}
    crcs = {PICKLE: crc32(blob.pickle), STORAGE: crc, **_SMALL_CRCS}
    layout, parts = blob.layout, [bytearray()]
    for entry in layout.entries:
        parts[-1] += local_header(entry, crcs[entry.name]) + records[entry.name]
        if entry is layout.storage:
            parts.append(bytearray())
    parts[-1] += directory(layout.entries, crcs)
    data.write_at(blob.start, memoryview(parts[0]))
    if layout.storage is not None:
        data.write_at(blob.start + layout.storage.data + layout.storage.size, memoryview(parts[1]))


@dataclass(slots=True)
class _Plan:
    """Where everything goes: `places` are (start, size) of the blob of every leaf."""

    checkpoint: Checkpoint
    leaves: list[Leaf] = field(init=False)
    root: MetaNode = field(init=False)
    blobs: list[_Blob] = field(default_factory=list)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    tensors: dict[str, LazyTensor] = field(init=False)
    size: int = 0

    def __post_init__(self) -> None:
        members = members_by_prefix(self.checkpoint, {})  # their parts are tensors here

        def inside(node: StateDict) -> list[tuple[str, MetaNode]]:
            return [(key.removeprefix(node.prefix), TensorRef(name)) for key, name in members.get(node.prefix, [])]

        flat = flatten(self.checkpoint.root, inside)
        self.leaves, self.root = flat.leaves, flat.root
        self.tensors = {name: writable(tensor) for name, tensor in self.checkpoint.all_tensors.items()}
        for leaf in self.leaves:
            if not isinstance(leaf.node, TensorRef):
                self.places[leaf.name] = self._add(_pickled(leaf.node))
        known: dict[Hashable, tuple[int, int]] = {}
        pickles: dict[TensorInfo, bytes] = {}
        for leaf in self.leaves:
            if isinstance(leaf.node, TensorRef):
                name = leaf.node.name
                tensor = self.tensors[name]
                key = tensor.identity(name)
                if key not in known:
                    pickle = pickles.get(tensor.info) or pickles.setdefault(tensor.info, _pickled_tensor(tensor.info))
                    known[key] = self._add(pickle, name, tensor)
                self.places[leaf.name] = known[key]

    def _add(self, pickle: bytes, name: str = "", tensor: LazyTensor | None = None) -> tuple[int, int]:
        layout = _layout(len(pickle), None if tensor is None else tensor.info.nbytes)
        start = self.size
        self.blobs.append(_Blob(start, pickle, layout, name, tensor))
        self.size += layout.size
        return start, layout.size

    def listing(self, file: str) -> bytes:
        """The pickle that ``.metadata`` is."""
        emitter = _emitter(GLOBALS | DCP_GLOBALS)
        emitter.named(METADATA, "Metadata")
        emitter.op(b")\x81}(")
        emitter.text("state_dict_metadata")
        emitter.op(b"}(")
        for leaf in self.leaves:
            emitter.text(leaf.name)
            self._kind(emitter, leaf)
        emitter.op(b"u")
        emitter.text("planner_data")
        emitter.node({leaf.name: leaf.path for leaf in self.leaves})
        emitter.text("storage_data")
        emitter.op(b"}(")
        for leaf in self.leaves:
            self._storage_data(emitter, leaf, file)
        emitter.op(b"u")
        for key, value in (("storage_meta", None), ("version", VERSION), ("ckptconv", self._record())):
            emitter.text(key)
            emitter.node(value)
        emitter.op(b"ub")
        return emitter.finish()

    def _record(self) -> str:
        return Record(root=self.root, notes=replace(self.checkpoint.notes, digest=None)).spell(self.tensors)

    def _kind(self, emitter: Emitter, leaf: Leaf) -> None:
        if not isinstance(leaf.node, TensorRef):
            emitter.instance(METADATA, "BytesStorageMetadata", None)
            return
        info = self.tensors[leaf.node.name].info
        shape = torch_shape(info)
        emitter.named(METADATA, "TensorStorageMetadata")
        emitter.op(b")\x81}(")
        emitter.text("properties")
        emitter.named(METADATA, "TensorProperties")
        emitter.op(b")\x81(")
        emitter.node(TorchValue("dtype", TORCH_NAMES[info.dtype]))
        emitter.node(TorchValue("layout", "strided"))
        emitter.node(False)
        emitter.call(METADATA, "_MEM_FORMAT_ENCODING", 0)
        emitter.node(False)
        emitter.op(b"tb")
        emitter.text("size")
        emitter.node(TorchSize(shape))
        emitter.text("chunks")
        emitter.op(b"](")
        chunk: dict[MetaNode, MetaNode] = {"offsets": TorchSize((0,) * len(shape)), "sizes": TorchSize(shape)}
        emitter.instance(METADATA, "ChunkStorageMetadata", chunk)
        emitter.op(b"eub")

    def _storage_data(self, emitter: Emitter, leaf: Leaf, file: str) -> None:
        offset, index = None, None
        if isinstance(leaf.node, TensorRef):
            offset, index = TorchSize((0,) * len(self.tensors[leaf.node.name].info.shape)), 0
        emitter.instance(METADATA, "MetadataIndex", {"fqn": leaf.name, "offset": offset, "index": index})
        start, size = self.places[leaf.name]
        emitter.instance(FILESYSTEM, "_StorageInfo", {"relative_path": file, "offset": start, "length": size})


def _emitter(allowed: frozenset[str] = GLOBALS) -> Emitter:
    def never(*args: object) -> None:
        raise AssertionError("a value that holds tensors is not a leaf")

    return Emitter(never, never, allowed)


def _pickled(node: MetaNode) -> bytes:
    emitter = _emitter()
    emitter.node(node)
    return emitter.finish()


def _pickled_tensor(info: TensorInfo) -> bytes:
    """A contiguous tensor that is the whole of storage 0."""
    emitter, shape = _emitter(), torch_shape(info)
    emitter.named("torch._utils", dense_function(info.dtype))
    spell_dense(emitter, View(0, info.dtype, 0, shape, contiguous_strides(shape)), info.nbytes)
    emitter.op(b"R")
    return emitter.finish()
