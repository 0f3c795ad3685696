"""Sharded .bin and .pth sets. `ckptconv.formats.sets.shards` describes the index; each shard is a bare state_dict.

The index lists a quantized or sparse tensor, and one of a class that wraps others, under the name of the whole.

Tensors that share a storage, such as tied ones, stay in one shard, where they still share it. Parameters, strides and
attributes are kept in the shards. Everything outside the state_dict (metadata, optimizer state) is in our record, a map
of strings in the index's metadata under the key ``ckptconv``; tensors outside the state_dict are in the shards, under
their path.

Refused: a shard that is more than a dict of tensors and plain values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import StateDict, TensorRef, nodes_of
from ckptconv.core.notes import Notes
from ckptconv.core.record import Record
from ckptconv.core.record_edits import add_strings, take_edits
from ckptconv.core.recorded import recorded_checkpoint
from ckptconv.core.report import Finding
from ckptconv.errors import UnsupportedError, located
from ckptconv.formats.base import WriteOptions, WriteResult
from ckptconv.formats.sets import folder_file, modules_beside, shards
from ckptconv.formats.sets.split import DEFAULT_SIZE, Shard, split, write_set
from ckptconv.formats.targets.blobs import move_out, restore
from ckptconv.formats.torch.containers import zip_archive as single
from ckptconv.formats.torch.writer.storages import plan_storages
from ckptconv.formats.torch.writer.write import write as write_single
from ckptconv.io.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.core.composite import Composite
    from ckptconv.core.metadata import MetaNode, StateDictType
    from ckptconv.core.progress import Progress
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.source import Source
    from ckptconv.io.target import Target

NAME = "torch-sharded"


def claims(source: Source | Folder) -> bool:
    """Whether this is an index of torch archives, or a folder with such an index, or with a single torch archive."""
    return folder_file.claims(source, binaries=True)


def read(source: Source | Folder) -> Checkpoint:
    """Open the set. Reads its index and the pickle of each shard.

    Raises CorruptFileError if index and shards contradict each other, and what the reader of a single file raises.
    """
    folder, index, file = folder_file.find(source, binaries=True)
    chosen = folder_file.chosen_file_findings(folder, file) if isinstance(source, Folder) else []
    if index is None:
        checkpoint = single.read(file)
        checkpoint.findings = (*chosen, *checkpoint.findings, *modules_beside.other_module_findings(folder))
        return checkpoint
    parts = {name: _read_shard(shard) for name, shard in shards.open_shards(folder, index).items()}
    wholes = {name: _whole_names(part) for name, part in parts.items()}
    listed = {name: dict.fromkeys(wholes[name].get(tensor, tensor) for tensor in part) for name, part in parts.items()}
    order, findings = shards.cross_check(folder, index, listed)
    findings = [*chosen, *findings]
    joined = _Joined()
    for part in parts.values():
        joined.add(part)
    findings += [*(finding for part in parts.values() for finding in part.findings)]
    findings += shards.check_total(index, _sums(joined.tensors.values()))
    held: dict[str, list[str]] = {name: [] for name in order}
    for name, part in parts.items():
        for tensor in part:
            held[wholes[name].get(tensor, tensor)].append(tensor)
    stored = {tensor: joined.tensors[tensor] for tensors in held.values() for tensor in tensors}
    strings = index.strings
    if strings is None or not strings.get(records.KEY, "").startswith("{") or joined.plain:
        if strings is not None and joined.plain:
            message = "the shards hold more than tensors, so our record in the index is passed over"
            findings.append(Finding("record", "warning", index.path, message))
        root = add_strings(joined.state_dict, index.values if index.values != {"format": records.FORMAT} else {})
        notes = replace(joined.notes, source="torch")
        return Checkpoint(
            stored, root=root, format=NAME, notes=notes, composites=joined.composites, findings=tuple(findings),
            file=folder,
        )  # fmt: skip
    record = records.parse(strings[records.KEY])
    root = restore(take_edits(record, strings), stored, findings)
    checkpoint = recorded_checkpoint(record, root, stored, findings, format=NAME, file=folder)
    checkpoint.notes = replace(checkpoint.notes, globals=joined.notes.globals)
    return checkpoint


def _whole_names(part: Checkpoint) -> dict[str, str]:
    """The name of the whole for each tensor that is a part of one; an index lists only the whole."""
    composite = {tensor: name for name, whole in part.composites.items() for tensor in whole.parts.values()}
    if not isinstance(part.root, StateDict):
        return composite
    return composite | {
        ref.name: part.root.prefix + key
        for _, key, value in part.root.plain
        for ref in nodes_of(value, TensorRef)
        if ref.name in part
    }


def _read_shard(source: Source) -> Checkpoint:
    """Read a shard. Raises UnsupportedError if it is not a bare state_dict, and what its reader raises."""
    with located(source.path):
        part = single.open_archive(source)
        if part.extras or (not isinstance(part.root, StateDict) and (part.all_tensors or part.root)):
            raise UnsupportedError(
                "this shard is not a dict of tensors alone", hint=f"ckptconv inspect {source.path} shows what it is"
            )
    return part


@dataclass(slots=True)
class _Joined:
    """The contents of all shards."""

    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    plain: list[tuple[int, str, MetaNode]] = field(default_factory=list)
    versions: dict[MetaNode, MetaNode] = field(default_factory=dict)
    composites: dict[str, Composite] = field(default_factory=dict)
    container: str = ""
    notes: Notes = field(default_factory=Notes)

    def add(self, part: Checkpoint) -> None:
        root = part.root
        if isinstance(root, StateDict):
            entries = len(self.tensors) + len(self.plain)
            self.plain += [(entries + position, key, value) for position, key, value in root.plain]
            self.versions |= root.versions if isinstance(root.versions, dict) else {}
            self.container = self.container or root.container
        self.tensors |= part
        self.composites |= part.composites
        ours, notes = self.notes, part.notes
        self.notes = Notes(
            tensors={**ours.tensors, **notes.tensors},
            strides={**ours.strides, **notes.strides},
            attributes={**ours.attributes, **notes.attributes},
            globals=tuple(dict.fromkeys((*ours.globals, *notes.globals))),
        )

    @property
    def state_dict(self) -> StateDict:
        container: StateDictType = "dict" if self.container == "dict" else "OrderedDict"
        return StateDict(container=container, plain=tuple(self.plain), versions=self.versions or None)


def _sums(tensors: Iterable[LazyTensor]) -> list[int]:
    """The totals that writers put into an index: of all tensors, of tensors with ties once, of storages."""
    listed = list(tensors)
    ties = {tensor.alias: tensor.info.nbytes for tensor in listed}
    storages = {tensor.placement.storage.key: tensor.placement.storage for tensor in listed if tensor.placement}
    return [
        sum(ties.values()),
        sum(tensor.info.nbytes for tensor in listed),
        sum(storage.numel * storage.unit for storage in storages.values()),
    ]


@dataclass(frozen=True, slots=True)
class _Plan:
    """All tensors as one flat state_dict, and the names in each block that cannot be cut: those of one storage."""

    flat: Checkpoint
    root: MetaNode
    blocks: list[list[str]]
    sizes: list[int]

    def split(self, limit: int) -> list[list[int]]:
        return split(self.sizes, limit)

    def names(self, shard: list[int]) -> list[str]:
        return [name for block in shard for name in self.blocks[block]]


def _plan(checkpoint: Checkpoint) -> _Plan:
    root, moved = move_out(checkpoint.root, checkpoint.all_tensors)
    state_dicts = list(nodes_of(checkpoint.root, StateDict))
    container = state_dicts[0].container if len(state_dicts) == 1 else "OrderedDict"
    flat = Checkpoint({**checkpoint.all_tensors, **moved}, root=StateDict(container=container), notes=checkpoint.notes)
    views, storages = plan_storages(flat)
    blocks: list[list[str]] = [[] for _ in storages]
    for name, view in views.items():
        blocks[view.key].append(name)
    return _Plan(flat, root, blocks, [stored.image.info.nbytes for stored in storages])


def layout(checkpoint: Checkpoint, limit: int, *, plain: bool) -> list[list[str]]:
    """The names of the tensors in each of the shards that there would be."""
    planned = _plan(checkpoint)
    return [planned.names(shard) for shard in planned.split(limit)]


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the shards beside `target`, and the index into it. Raises as the writer of a single file does."""
    planned = _plan(checkpoint)
    parts = [
        _shard(planned, planned.names(blocks), sum(planned.sizes[block] for block in blocks))
        for blocks in planned.split(options.shard_size or DEFAULT_SIZE)
    ]

    def strings() -> dict[str, str] | None:
        if options.plain:
            return None
        model = records.refs_are_model(checkpoint)
        record = Record(root=planned.root, refs_are_model=model, extras=list(checkpoint.extras), notes=checkpoint.notes)
        return records.strings_of(record, planned.flat)

    return WriteResult(write_set(target, parts, list(planned.flat), options.progress, strings))


def _shard(planned: _Plan, names: list[str], nbytes: int) -> Shard:
    kept = set(names)
    tensors = {name: tensor for name, tensor in planned.flat.items() if name in kept}
    notes = replace(planned.flat.notes.only(kept), versions={}, arch=None)  # the index says them of all
    part = planned.flat.replaced(tensors=tensors, notes=notes)

    def write_one(other: Target, progress: Progress | None) -> int:
        return write_single(part, other, WriteOptions(progress=progress)).nbytes

    return Shard(names, nbytes, write_one)
