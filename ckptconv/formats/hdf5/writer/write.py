"""Writer of an HDF5 file, without h5py: the tree that h5py and Keras write, laid out to be written in one pass.

Everything is planned from headers (`placing`, `drafting`). The elements are streamed to their places, and what comes
before them is written last, with the content digest. If attributes can express all of the metadata, as in files by h5py
and Keras, there is no record; otherwise it is in the attribute ``ckptconv`` of the root group. To decide that, our own
reader reads the planned file, before a byte is written. If h5py is installed, it has to open the written file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.spelling import same
from ckptconv.errors import CkptconvError, LimitError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.hdf5.read import checkpoint_of
from ckptconv.formats.hdf5.structures.superblock import Hdf5File
from ckptconv.formats.hdf5.tree import walk
from ckptconv.formats.hdf5.writer.drafting import Draft, draft
from ckptconv.formats.hdf5.writer.messages import attribute_value
from ckptconv.formats.hdf5.writer.placing import (
    InexactError,
    Places,
    add_exact_attributes,
    place_datasets,
    readable_attributes,
)
from ckptconv.formats.hdf5.writer.reference import open_with_h5py
from ckptconv.formats.hdf5.writer.stored import acceptor, is_accepted, path_of, stored_as
from ckptconv.formats.targets.plan import is_unnoted, plan
from ckptconv.io.digest import PLACEHOLDER
from ckptconv.io.limits import MAX_HDF5_TEXT
from ckptconv.io.stream import Job, Streamer
from ckptconv.io.window import Window

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.targets.plan import Plan
    from ckptconv.io.stream import Sums
    from ckptconv.io.target import Target

MAX_TEXT = MAX_HDF5_TEXT // 4
"""The most bytes of text that are written: a reader counts them twice, and reads other text, too."""


@dataclass(slots=True)
class PlannedFile:
    """A file to be written.

    jobs:  the tensor for each dataset, and where its elements go.
    paths: the path of each of these datasets.
    plan:  of a file with a record; names the stored tensors by these paths.
    """

    draft: Draft
    jobs: list[Job]
    paths: list[str]
    plan: Plan | None = None

    def sample_paths(self) -> list[str]:
        """The path of one dataset for each shape and dtype."""
        samples = {job.tensor.info: path for job, path in zip(self.jobs, self.paths, strict=True)}
        return list(samples.values())

    def add_digest(self, checkpoint: Checkpoint, sums: list[Sums]) -> str | None:
        """Put the content digest into the record, and return it; None without a record."""
        if self.plan is None:
            return None
        hashes = {path: tensor_sums.content for path, tensor_sums in zip(self.paths, sums, strict=True)}
        digest = self.plan.digest(checkpoint, hashes)
        at = self.draft.texts[_record_text(self.plan, PLACEHOLDER).encode("ascii")]
        text = _record_text(self.plan, digest).encode("ascii")
        self.draft.head[at : at + len(text)] = text
        return digest


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint. Raises LimitError, DamagedTensorError, RejectedOutputError."""
    planned = plan_file(checkpoint, (), plain=options.plain)
    target.reserve(planned.draft.size)
    content = planned.plan is not None
    sums = Streamer(target, crc=False, content=content, progress=options.progress).run(planned.jobs)
    digest = planned.add_digest(checkpoint, sums)
    target.write_at(0, bytes(planned.draft.head))
    open_with_h5py(target.readable_path, planned.sample_paths())
    return WriteResult(planned.draft.size, digest)


def plan_file(checkpoint: Checkpoint, documents: Collection[str], *, plain: bool) -> PlannedFile:
    """Decide names, types, attributes and places.

    documents: the keys of metadata that is written elsewhere.
    plain:     only the model's tensors have to be read back exactly.

    Raises LimitError.
    """
    return _plan_without_record(checkpoint, documents, plain=plain) or _plan_with_record(checkpoint, documents)


def _plan_without_record(checkpoint: Checkpoint, documents: Collection[str], *, plain: bool) -> PlannedFile | None:
    """A file without a record; None if reading it would not give back the same."""
    tensors = checkpoint.all_tensors
    noted = _without_notes_of_keras(checkpoint)
    if (
        not tensors
        or checkpoint.composites
        or noted.notes.quantized
        or not all(is_accepted(name, tensors) for name in tensors)
    ):
        return None
    if any(stored_as(tensor.info) != tensor.info for tensor in tensors.values()):
        return None
    if not plain and not is_unnoted(noted):
        return None
    try:
        places, file, read_back = _draft_and_read_back(checkpoint, documents, plain=plain)
    except (InexactError, CkptconvError):
        return None
    if not _is_same(read_back, checkpoint, plain=plain):
        return None
    stored = {name: tensor for name, tensor in tensors.items() if name not in checkpoint.tied_to}
    paths = [path_of(name, checkpoint) for name in stored]
    return PlannedFile(file, _jobs(file, places, stored, paths), paths)


def _without_notes_of_keras(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without notes about weights that Keras quantized, which opening the file finds again."""
    notes = checkpoint.notes
    if not notes.quantized or not all(weight.by_keras for weight in notes.quantized):
        return checkpoint
    return checkpoint.replaced(notes=replace(notes, quantized=(), between=()))


def _draft_and_read_back(
    checkpoint: Checkpoint, documents: Collection[str], *, plain: bool
) -> tuple[Places, Draft, Checkpoint]:
    """A file without a record, and the checkpoint that our reader makes of it."""
    tied, tensors = checkpoint.tied_to, checkpoint.all_tensors
    infos = {name: tensor.info for name, tensor in tensors.items() if name not in tied}
    places = place_datasets(infos, tied, {name: path_of(name, checkpoint) for name in tensors})
    if not plain:
        add_exact_attributes(places, _without(checkpoint.root, documents))
    file = draft(places.root)
    tree = walk(Hdf5File(Window(_Unwritten(file), 0, file.size)))
    metadata = checkpoint.metadata
    return places, file, checkpoint_of(tree, {key: metadata[key] for key in documents}, "hdf5", None)


def _is_same(found: Checkpoint, expected: Checkpoint, *, plain: bool) -> bool:
    if plain:
        return found.keys() == expected.keys() and not found.extras and sorted(found.ties) == sorted(expected.ties)
    same_names = [*found] == [*expected] and [*found.extras] == [*expected.extras]
    return same_names and found.ties == expected.ties and same(found.root, expected.root)


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """A planned file that can be read before it is written; its elements are zeros."""

    draft: Draft

    def read_at(self, offset: int, length: int) -> memoryview:
        """The bytes that will be there."""
        return memoryview(bytes(self.draft.head[offset : offset + length]).ljust(length, b"\0"))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """As `read_at`, into a buffer."""
        buffer[:] = self.read_at(offset, len(buffer))


def _without(root: MetaNode, documents: Collection[str]) -> MetaNode:
    """The metadata tree without these top-level keys."""
    return {key: value for key, value in root.items() if key not in documents} if type(root) is dict else root


def _plan_with_record(checkpoint: Checkpoint, documents: Collection[str]) -> PlannedFile:
    inside = checkpoint.replaced(root=_without(checkpoint.root, documents))
    tensor_plan = plan(inside, acceptor(checkpoint), stored_as)
    links, paths = _ties_as_links(checkpoint, tensor_plan)
    places = place_datasets(tensor_plan.infos, links, paths)
    for path, attributes in readable_attributes(replace(tensor_plan.record, root=tensor_plan.root), places).items():
        places.add_attributes(path, attributes)
    names = [tensor_plan.record.own_name(path) for path in paths]
    if [tensor_plan.record.own_name(path) for path in places.datasets()] != names or places.are_ordered_by_keras():
        tensor_plan.record.order = names
    text = attribute_value(_record_text(tensor_plan, PLACEHOLDER))
    assert text is not None
    places.add_attributes("", {records.KEY: text})
    file = draft(places.root)
    if (count := sum(map(len, file.texts))) > MAX_TEXT:
        raise LimitError(
            f"the metadata would have {count:,} bytes of text; the limit is {MAX_TEXT:,}",
            hint="--bare leaves the metadata out",
        )
    tensors = {tensor_plan.record.own_name(path): tensor for path, tensor in tensor_plan.stored.items()}
    stored_paths = list(tensor_plan.stored)
    return PlannedFile(file, _jobs(file, places, tensors, stored_paths), stored_paths, tensor_plan)


def _ties_as_links(checkpoint: Checkpoint, tensor_plan: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """Turns the plan's ties into links to one dataset, so that the record needs no ties.

    Returns for each further path the path of its dataset, and all paths in the order of the tensors.
    """
    record, accepted = tensor_plan.record, acceptor(checkpoint)
    stored = {record.own_name(name): name for name in tensor_plan.stored}
    taken, links = {*checkpoint.all_tensors, *tensor_plan.stored}, dict[str, str]()
    for dropped, kept, _ in record.ties:
        path = accepted(dropped, taken)
        links[path], stored[dropped] = stored[kept], path
        taken.add(path)
        if path != dropped:
            record.names[path] = dropped
        if kept in record.encodings:
            record.encodings[dropped] = record.encodings[kept]
    record.ties = []
    order = [*checkpoint.all_tensors, *(name for name in stored if name not in checkpoint.all_tensors)]
    return links, {stored[name]: stored[name] for name in order}


def _record_text(tensor_plan: Plan, digest: str) -> str:
    return replace(tensor_plan.record, root=tensor_plan.root, digest=digest).spell(tensor_plan.infos)


def _jobs(file: Draft, places: Places, tensors: Mapping[str, LazyTensor], paths: list[str]) -> list[Job]:
    """A job for each dataset, under the name of its tensor. Empty ones have no place, and write nothing."""
    spots = [file.spots.get(id(places.at(path)), file.size) for path in paths]
    return [Job(name, tensor, spot) for (name, tensor), spot in zip(tensors.items(), spots, strict=True)]
