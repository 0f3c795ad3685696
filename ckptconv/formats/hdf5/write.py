"""Writer of an HDF5 file, without h5py: a tree as `h5py` and Keras write it, laid out so that it is copied in one go.

Everything is planned from headers (`placing`, `drafting`); the elements are streamed to their places, and what stands
before them goes in last, with the content digest. Where attributes say all of the metadata, as in files that h5py and
Keras wrote, there is no record; what they do not say is in an attribute ``ckptconv`` of the root group. Our own reader
is asked, before a byte is written, whether it makes the same of the file without it. Where h5py is installed, it has to
open what was written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.spelling import same
from ckptconv.errors import CkptconvError, LimitError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.hdf5.drafting import Draft, draft
from ckptconv.formats.hdf5.messages import said
from ckptconv.formats.hdf5.placing import Places, UnsayableError, placed, say_all, shown
from ckptconv.formats.hdf5.read import checkpoint_of
from ckptconv.formats.hdf5.reference import open_with_h5py
from ckptconv.formats.hdf5.stored import acceptor, is_accepted, path_of, stored_as
from ckptconv.formats.hdf5.superblock import Hdf5File
from ckptconv.formats.hdf5.tree import walk
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

MOST_TEXT = MAX_HDF5_TEXT // 4
"""Bytes of texts that are written: a reader counts each twice, and has other things to read."""


@dataclass(slots=True)
class Drafted:
    """A file that is to be written: its draft, and a job for each dataset, by the name of its tensor.

    paths: of these datasets. plan: where there is a record, which has these as the names of what is stored.
    """

    draft: Draft
    jobs: list[Job]
    paths: list[str]
    plan: Plan | None = None

    def one_of_each(self) -> list[str]:
        """A path for each kind of header that there is."""
        kinds = {job.tensor.info: path for job, path in zip(self.jobs, self.paths, strict=True)}
        return list(kinds.values())

    def digest(self, checkpoint: Checkpoint, sums: list[Sums]) -> str | None:
        """The content digest; it goes into the record, where there is one."""
        if self.plan is None:
            return None
        hashes = {name: one.content for name, one in zip(self.paths, sums, strict=True)}
        digest = self.plan.digest(checkpoint, hashes)
        at = self.draft.texts[_record(self.plan, PLACEHOLDER).encode("ascii")]
        text = _record(self.plan, digest).encode("ascii")
        self.draft.head[at : at + len(text)] = text
        return digest


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint. Raises LimitError, DamagedTensorError, RejectedOutputError."""
    made = drafted(checkpoint, (), plain=options.plain)
    target.reserve(made.draft.size)
    content = made.plan is not None
    sums = Streamer(target, crc=False, content=content, progress=options.progress).run(made.jobs)
    digest = made.digest(checkpoint, sums)
    target.write_at(0, bytes(made.draft.head))
    open_with_h5py(target.readable_path, made.one_of_each())
    return WriteResult(made.draft.size, digest)


def drafted(checkpoint: Checkpoint, documents: Collection[str], *, plain: bool) -> Drafted:
    """Decide names, types, attributes and places. `documents`: keys of metadata that is kept elsewhere. Raises
    LimitError.
    """
    return _without_record(checkpoint, documents, plain=plain) or _with_record(checkpoint, documents)


def _without_record(checkpoint: Checkpoint, documents: Collection[str], *, plain: bool) -> Drafted | None:
    """The file whose reader gives the very same back without a record; None where there is none.

    `plain`: the model's tensors alone have to be the same.
    """
    tensors = checkpoint.all_tensors
    parts = checkpoint.composites or checkpoint.notes.quantized
    if not tensors or parts or not all(is_accepted(name, tensors) for name in tensors):
        return None
    if any(stored_as(tensor.info) != tensor.info for tensor in tensors.values()):
        return None
    if not plain and not is_unnoted(checkpoint):
        return None
    try:
        places, file, found = _attempt(checkpoint, documents, plain=plain)
    except (UnsayableError, CkptconvError):
        return None
    if not _is_same(found, checkpoint, plain=plain):
        return None
    stored = {name: tensor for name, tensor in tensors.items() if name not in checkpoint.tied_to}
    paths = [path_of(name, checkpoint) for name in stored]
    return Drafted(file, _jobs(file, places, stored, paths), paths)


def _attempt(checkpoint: Checkpoint, documents: Collection[str], *, plain: bool) -> tuple[Places, Draft, Checkpoint]:
    """A file without a record, and what its reader makes of it."""
    tied, tensors = checkpoint.tied_to, checkpoint.all_tensors
    infos = {name: tensor.info for name, tensor in tensors.items() if name not in tied}
    places = placed(infos, tied, {name: path_of(name, checkpoint) for name in tensors})
    if not plain:
        say_all(places, _without(checkpoint.root, documents))
    file = draft(places.root)
    tree = walk(Hdf5File(Window(_Unwritten(file), 0, file.size)))
    metadata = checkpoint.metadata
    return places, file, checkpoint_of(tree, {key: metadata[key] for key in documents}, "hdf5", None)


def _is_same(found: Checkpoint, wanted: Checkpoint, *, plain: bool) -> bool:
    if plain:
        return found.keys() == wanted.keys() and not found.extras and sorted(found.ties) == sorted(wanted.ties)
    names = [*found] == [*wanted] and [*found.extras] == [*wanted.extras]
    return names and found.ties == wanted.ties and same(found.root, wanted.root)


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """A file that is to be written, as far as its headers are read."""

    draft: Draft

    def read_at(self, offset: int, length: int) -> memoryview:
        """What will be there; elements are zeros here."""
        return memoryview(bytes(self.draft.head[offset : offset + length]).ljust(length, b"\0"))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """The same, into a buffer."""
        buffer[:] = self.read_at(offset, len(buffer))


def _without(root: MetaNode, documents: Collection[str]) -> MetaNode:
    """The tree without those of its keys."""
    return {key: value for key, value in root.items() if key not in documents} if type(root) is dict else root


def _with_record(checkpoint: Checkpoint, documents: Collection[str]) -> Drafted:
    inside = checkpoint.replaced(root=_without(checkpoint.root, documents))
    made = plan(inside, acceptor(checkpoint), stored_as)
    links, paths = _linked(checkpoint, made)
    places = placed(made.infos, links, paths)
    for path, attributes in shown(replace(made.record, root=made.root), places).items():
        places.say(path, attributes)
    names = [made.record.own_name(path) for path in paths]
    if [made.record.own_name(path) for path in places.datasets()] != names or places.are_ordered_by_keras():
        made.record.order = names
    text = said(_record(made, PLACEHOLDER))
    assert text is not None
    places.say("", {records.KEY: text})
    file = draft(places.root)
    if (count := sum(map(len, file.texts))) > MOST_TEXT:
        raise LimitError(
            f"the metadata would have {count:,} bytes of text; the limit is {MOST_TEXT:,}",
            hint="--bare leaves the metadata out",
        )
    called = {made.record.own_name(path): tensor for path, tensor in made.stored.items()}
    return Drafted(file, _jobs(file, places, called, list(made.stored)), list(made.stored), made)


def _linked(checkpoint: Checkpoint, made: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """Tied names as links, and the paths of all, in their order: a dataset can have both names, and no record of it."""
    record, accepted = made.record, acceptor(checkpoint)
    stored = {record.own_name(name): name for name in made.stored}
    taken, links = {*checkpoint.all_tensors, *made.stored}, dict[str, str]()
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


def _record(made: Plan, digest: str) -> str:
    return replace(made.record, root=made.root, digest=digest).spell(made.infos)


def _jobs(file: Draft, places: Places, called: Mapping[str, LazyTensor], paths: list[str]) -> list[Job]:
    """A job for each dataset, under the name of its tensor; empty ones have no place, and write nothing."""
    spots = [file.spots.get(id(places.at(path)), file.size) for path in paths]
    return [Job(name, tensor, spot) for (name, tensor), spot in zip(called.items(), spots, strict=True)]
