"""Writer for torch.save's zip archive, without torch.

    archive/data.pkl, archive/.format_version, archive/.storage_alignment, archive/byteorder,
    archive/data/0 …, archive/version                        as torch.save writes them
    archive/ckptconv/notes.json                              {"version": 1, "arch": …}, if there is an arch note

The folder is always called "archive", so that equal checkpoints give equal bytes under any file name. Storages are
tagged "cpu" whatever device they were on, so that the file loads on any machine, and with ``map_location`` onto any
device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.composite import VALUES, Quantized, Sparse
from ckptconv.core.metadata import MetaNode, StateDict, TensorRef, nodes_of
from ckptconv.core.spelling import dumps, to_json
from ckptconv.formats.base import WriteResult
from ckptconv.formats.torch.containers.zip_archive import NOTES_RECORD
from ckptconv.formats.torch.writer.emit import Emitter
from ckptconv.formats.torch.writer.spell import (
    check_composites,
    dense_function,
    in_the_pickle,
    spell_dense,
    spell_quantized,
    spell_sparse,
)
from ckptconv.formats.torch.writer.storages import Stored, View, plan_storages
from ckptconv.io.checksum import crc32
from ckptconv.io.stream import Job, Streamer
from ckptconv.io.zip_writing import RECORD_ALIGNMENT, directory_size, end_of, plan_entries, write_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.composite import Composite
    from ckptconv.formats.base import WriteOptions
    from ckptconv.io.target import Target

ROOT = "archive/"


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint.

    Raises DamagedTensorError if a source's tensor fails its checksum, CorruptFileError for bad indices.
    """
    check_composites(checkpoint)
    views, storages = plan_storages(checkpoint, in_the_pickle(checkpoint))
    before, after = _records(checkpoint, views, storages)
    sizes = [(ROOT + name, len(data)) for name, data in before.items()]
    sizes += [(f"{ROOT}data/{key}", stored.image.info.nbytes) for key, stored in enumerate(storages)]
    sizes += [(ROOT + name, len(data)) for name, data in after.items()]
    entries = plan_entries(sizes)
    target.reserve(end_of(entries) + directory_size(entries))
    crcs = {}
    for entry in entries:
        data = {**before, **after}.get(entry.name.decode("utf-8").removeprefix(ROOT))
        if data is not None:
            target.write_at(entry.data, data)
            crcs[entry.name] = crc32(data)
    places = entries[len(before) : len(before) + len(storages)]
    jobs = [Job(stored.name, stored.image, entry.data) for stored, entry in zip(storages, places, strict=True)]
    sums = Streamer(target, crc=True, content=False, progress=options.progress).run(jobs)
    crcs |= {entry.name: checksums.crc32 for entry, checksums in zip(places, sums, strict=True)}
    return WriteResult(write_headers(target, entries, crcs))


def _records(
    checkpoint: Checkpoint, views: dict[str, View], storages: list[Stored]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The small records, before and after the storages, in torch.save's order."""
    before = {
        "data.pkl": _Pickler(checkpoint, views, storages).pickle(),
        ".format_version": b"1",
        ".storage_alignment": str(RECORD_ALIGNMENT).encode("ascii"),
        "byteorder": b"little",
    }
    after = {"version": b"3\n"}
    if checkpoint.notes.arch is not None:
        after[NOTES_RECORD] = dumps({"version": 1, "arch": to_json(checkpoint.notes.arch)}).encode("ascii")
    return before, after


def _node_at(node: MetaNode, path: tuple[str | int, ...]) -> MetaNode:
    """The node at a path in the tree; None if there is none."""
    for key in path:
        match node:
            case dict():
                node = node.get(key)
            case list() | tuple() if isinstance(key, int) and 0 <= key < len(node):
                node = node[key]
            case _:
                return None
    return node


class _Pickler:
    """Pickles the checkpoint's tree, with its tensors in their places."""

    def __init__(self, checkpoint: Checkpoint, views: dict[str, View], storages: list[Stored]) -> None:
        self._checkpoint = checkpoint
        self._views = views
        self._storages = storages
        self._members = members_by_prefix(checkpoint, checkpoint.composites)
        self._composites = {composite.parts[VALUES]: composite for composite in checkpoint.composites.values()}

    def pickle(self) -> bytes:
        emitter = Emitter(self._tensor, self._state_dict, versions=self._versions())
        emitter.node(self._checkpoint.root)
        return emitter.finish()

    def _versions(self) -> dict[int, MetaNode]:
        """Module versions, by the `id` of their state_dict in the tree. They are dropped if that is no longer there."""
        versions = self._checkpoint.notes.versions.items()
        return {id(_node_at(self._checkpoint.root, path)): value for path, value in versions}

    def _state_dict(self, emitter: Emitter, node: StateDict) -> None:
        items: list[tuple[MetaNode, MetaNode]] = [
            (key.removeprefix(node.prefix), TensorRef(name)) for key, name in self._members.get(node.prefix, [])
        ]
        for position, key, value in node.plain:
            items.insert(position, (key, value))
        if node.container == "OrderedDict":
            emitter.call("collections", "OrderedDict")
        else:
            emitter.op(b"}")
        if items:
            emitter.pairs(items)
        if node.versions is not None:
            emitter.attributes({"_metadata": node.versions})

    def _tensor(self, emitter: Emitter, name: str) -> None:
        note = self._checkpoint.notes.tensors.get(name)
        attributes = self._checkpoint.notes.attributes.get(name)
        attributes = attributes if isinstance(attributes, dict) and "__class__" not in attributes else {}
        if note is not None and note.parameter:
            emitter.named("torch._utils", "_rebuild_parameter_with_state" if attributes else "_rebuild_parameter")
            emitter.op(b"(")
            self._made(emitter, name, requires_grad=False)
            emitter.node(note.requires_grad)
            emitter.call("collections", "OrderedDict")
            if attributes:
                emitter.node(attributes)
            emitter.op(b"tR")
        elif attributes:
            emitter.named("torch._tensor", "_rebuild_from_type_v2")
            emitter.op(b"(")
            emitter.named("torch._utils", self._function(name))
            emitter.named("torch", "Tensor")
            self._arguments(emitter, name, requires_grad=note is not None and note.requires_grad)
            emitter.node(attributes)
            emitter.op(b"tR")
        else:
            self._made(emitter, name, requires_grad=note is not None and note.requires_grad)

    def _made(self, emitter: Emitter, name: str, *, requires_grad: bool) -> None:
        emitter.named("torch._utils", self._function(name))
        self._arguments(emitter, name, requires_grad=requires_grad)
        emitter.op(b"R")

    def _function(self, name: str) -> str:
        match self._composites.get(name):
            case Quantized():
                return "_rebuild_qtensor"
            case Sparse():
                return "_rebuild_sparse_tensor"
            case _:
                return dense_function(self._views[name].dtype)

    def _arguments(self, emitter: Emitter, name: str, *, requires_grad: bool) -> None:
        match self._composites.get(name):
            case Quantized() as composite:
                view = self._views[name]
                nbytes = self._storages[view.key].image.info.nbytes
                spell_quantized(emitter, composite, self._checkpoint.all_tensors, view, nbytes, self._part)
            case Sparse() as composite:
                spell_sparse(emitter, composite, self._part)
            case _:
                self._dense(emitter, name, requires_grad=requires_grad)

    def _part(self, emitter: Emitter, name: str) -> None:
        """A part of another tensor, whole."""
        emitter.named("torch._utils", dense_function(self._views[name].dtype))
        self._dense(emitter, name, requires_grad=False)
        emitter.op(b"R")

    def _dense(self, emitter: Emitter, name: str, *, requires_grad: bool) -> None:
        view = self._views[name]
        spell_dense(emitter, view, self._storages[view.key].image.info.nbytes, requires_grad=requires_grad)


def members_by_prefix(checkpoint: Checkpoint, composites: Mapping[str, Composite]) -> dict[str, list[tuple[str, str]]]:
    """The model's tensors by the prefix of their state_dict, which is the longest that fits. For each (the name under
    which it is in the state_dict, its own name). Of a quantized or sparse tensor in `composites` only the values are
    listed, under the name of the whole.
    """
    prefixes = {node.prefix for node in nodes_of(checkpoint.root, StateDict)}
    lengths = sorted({len(prefix) for prefix in prefixes}, reverse=True)
    single = {node.name for node in nodes_of(checkpoint.root, TensorRef)}
    called = {composite.parts[VALUES]: name for name, composite in composites.items()}
    parts = {part for composite in composites.values() for part in composite.parts.values()} - called.keys()
    members: dict[str, list[tuple[str, str]]] = {}
    for name in checkpoint:
        if name in single or name in parts:
            continue
        key = called.get(name, name)
        if not any(key[:length] in prefixes for length in lengths):
            key = name  # a record that someone else wrote may say anything
        prefix = next(key[:length] for length in lengths if key[:length] in prefixes)
        members.setdefault(prefix, []).append((key, name))
    return members
