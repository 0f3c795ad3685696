"""Sharded safetensors. `ckptconv.formats.sets.shards` describes the index; each shard is a whole safetensors file.

Every shard's ``__metadata__`` has ``format: pt`` and the ties of the tensors in it. Our record, the same map of strings
as in a single file, is in the index's metadata under the key ``ckptconv``, which other readers ignore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.record import FORMAT, tie_strings
from ckptconv.errors import located
from ckptconv.formats.base import WriteResult
from ckptconv.formats.safetensors import read as single
from ckptconv.formats.safetensors import slice_files
from ckptconv.formats.safetensors.layout import read_header
from ckptconv.formats.safetensors.write import planned, write_file
from ckptconv.formats.sets import folder_file, modules_beside, shards, unindexed
from ckptconv.formats.sets.shard_names import whole_set
from ckptconv.formats.sets.split import DEFAULT_SIZE, Shard, split, write_set
from ckptconv.io.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.progress import Progress
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.safetensors.layout import Header
    from ckptconv.formats.sets.shards import Index
    from ckptconv.formats.targets.plan import Plan
    from ckptconv.io.source import Source
    from ckptconv.io.target import Target

NAME = "safetensors-sharded"


def claims(source: Source | Folder) -> bool:
    """Whether this is an index of safetensors files, or a folder with such an index, with a single safetensors file, or
    with all shards of a set.
    """
    return folder_file.claims(source, binaries=False)


def read(source: Source | Folder) -> Checkpoint:
    """Open the set. Reads its index and the header of each shard.

    Raises CorruptFileError if index and shards contradict each other, and what the reader of a single file raises.
    """
    if isinstance(source, Folder) and not folder_file.holds_one(source) and (names := whole_set(source.names)):
        opened = {name: source.open(name) for name in names}
        headers = _headers(opened)
        rebuilt, finding = unindexed.index_of(source, {name: header.slots for name, header in headers.items()})
        return _assemble_shards(source, rebuilt, opened, headers, [finding])
    folder, index, file = folder_file.find(source, binaries=False)
    chosen = folder_file.chosen_file_findings(folder, file) if isinstance(source, Folder) else []
    if index is None:
        checkpoint = single.read(file)
        checkpoint.findings = (*checkpoint.findings, *chosen, *modules_beside.other_module_findings(folder))
        return checkpoint
    opened = shards.open_shards(folder, index)
    return _assemble_shards(folder, index, opened, _headers(opened), chosen)


def _headers(opened: Mapping[str, Source]) -> dict[str, Header]:
    headers = {}
    for name, shard in opened.items():
        with located(shard.path):
            headers[name] = read_header(shard)
    return headers


def _assemble_shards(
    folder: Folder, index: Index, opened: Mapping[str, Source], headers: Mapping[str, Header], known: list[Finding]
) -> Checkpoint:
    order, findings = shards.cross_check(folder, index, {name: header.slots for name, header in headers.items()})
    findings += known
    tensors: dict[str, LazyTensor] = {}
    for name, header in headers.items():
        tensors |= single.tensors_of(opened[name], header)
        findings += slice_files.slice_findings(opened[name].path, header)
    findings += modules_beside.other_module_findings(folder)
    findings += shards.check_total(index, [sum(tensor.info.nbytes for tensor in tensors.values())])
    stored = {name: tensors[name] for name in order}
    strings: Mapping[str, MetaNode] | None = index.strings
    if strings is None:
        parts = {name: slice_files.strings_of(header) for name, header in headers.items()}
        strings = shards.merge_metadata({**parts, index.path: index.values}, findings)
    return single.assemble(stored, strings, format=NAME, file=folder, findings=findings)


def layout(checkpoint: Checkpoint, limit: int, *, plain: bool) -> list[list[str]]:
    """The tensor names in each shard that would be written; a tie is listed by its first name."""
    plan = planned(checkpoint, plain=plain).plan
    return plan.own_names(_split(plan, limit))


def _split(plan: Plan, limit: int) -> list[list[str]]:
    return plan.names_in(split([info.nbytes for info in plan.infos.values()], limit))


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the shards beside `target`, and the index into it. Raises what the writer of a single file raises."""
    result = planned(checkpoint, plain=options.plain)
    plan = result.plan
    hashes: dict[str, str] = {}
    digest: str | None = None
    ties = tie_strings(plan.record)

    def shard(names: list[str]) -> Shard:
        real = set(map(plan.record.own_name, names))
        strings = {"format": FORMAT, **{dropped: kept for dropped, kept in ties.items() if kept in real}}

        def write_one(other: Target, progress: Progress | None) -> int:
            size, content = write_file(other, result, names, lambda _: strings, progress)
            hashes.update(content)
            return size

        return Shard(names, sum(plan.infos[name].nbytes for name in names), write_one)

    def strings() -> dict[str, str] | None:
        nonlocal digest
        if not result.keeps_record:
            return None
        digest = plan.digest(checkpoint, hashes)
        return result.strings(digest)

    parts = [shard(names) for names in _split(plan, options.shard_size or DEFAULT_SIZE)]
    size = write_set(target, parts, list(plan.infos), options.progress, strings)
    return WriteResult(size, digest)
