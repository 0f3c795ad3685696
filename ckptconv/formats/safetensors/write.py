"""Writer of one safetensors file.

Everything is planned from headers: which names are stored, as what, where. Then the tensors are streamed to their
places, the header goes in last, with the content digest, and the safetensors package has to open the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.record import Encoding, Record
from ckptconv.errors import RejectedOutputError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.blobs import move_out
from ckptconv.formats.safetensors.encodings import stored_as
from ckptconv.formats.safetensors.layout import METADATA, arrange, spell_header
from ckptconv.io.digest import PLACEHOLDER, combine
from ckptconv.io.stream import Job, Streamer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.formats.base import WriteOptions
    from ckptconv.io.target import Target


@dataclass(slots=True)
class Plan:
    """What will be in the file: tensors by the name they are stored under, and the string metadata."""

    stored: dict[str, LazyTensor]
    infos: dict[str, TensorInfo]
    record: Record
    root: MetaNode
    keeps_record: bool

    def strings(self, digest: str | None) -> dict[str, str]:
        """The file's ``__metadata__``."""
        if self.keeps_record:
            return records.strings_of(replace(self.record, root=self.root, digest=digest), self.infos)
        return {"format": records.FORMAT, **records.tie_strings(self.record)}

    def digest(self, checkpoint: Checkpoint, hashes: Mapping[str, str]) -> str:
        """The content digest, from the content hashes of all stored tensors."""
        real = {self.record.names.get(stored, stored): content for stored, content in hashes.items()}
        tied = checkpoint.tied_to
        return combine(checkpoint, {name: real[tied.get(name, name)] for name in checkpoint.all_tensors})


def plan(checkpoint: Checkpoint, *, plain: bool) -> Plan:
    """Decide names, types and metadata. `plain` leaves the record out where the tensors can do without it."""
    tensors = checkpoint.all_tensors
    tied = checkpoint.tied_to
    root, moved = move_out(checkpoint.root, tensors)
    record = Record(
        refs_are_model=records.refs_are_model(checkpoint), composites=checkpoint.composites, notes=checkpoint.notes
    )
    stored: dict[str, LazyTensor] = {}
    infos: dict[str, TensorInfo] = {}
    names: dict[str, str] = {}
    for position, (name, tensor) in enumerate({**tensors, **moved}.items()):
        if name in tied:
            record.ties.append((name, tied[name], position))
            continue
        spelled = names[name] = _accepted(name, tensors)
        info = stored_as(tensor.info)
        stored[spelled], infos[spelled] = tensor, info
        if spelled != name:
            record.names[spelled] = name
        if info != tensor.info:
            record.encodings[name] = Encoding(tensor.info.dtype.name, tensor.info.shape)
    silent = all(records.reads_as_tie(dropped, kept) for dropped, kept, _ in record.ties)
    needed = bool(record.names or record.encodings or record.composites) or not silent
    return Plan(stored, infos, record, root, not plain or needed)


def _accepted(name: str, taken: dict[str, LazyTensor]) -> str:
    """The name as the format takes it: valid UTF-8, and not the header's own key."""
    if _plain_text(name) and name != METADATA:
        return name
    spelled = name.encode("utf-8", "backslashreplace").decode("utf-8") + "#"
    while spelled in taken:
        spelled += "#"
    return spelled


def _plain_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint. Raises LimitError (header past 100 MB), DamagedTensorError, RejectedOutputError."""
    planned = plan(checkpoint, plain=options.plain)
    digest = None

    def strings(hashes: dict[str, str] | None) -> dict[str, str]:
        nonlocal digest
        digest = planned.digest(checkpoint, hashes) if planned.keeps_record and hashes is not None else None
        return planned.strings(digest or PLACEHOLDER)

    size, _ = write_file(target, planned, planned.stored, strings, options.progress)
    return WriteResult(size, digest)


def write_file(
    target: Target, planned: Plan, names: Iterable[str], strings: Callable[[dict[str, str] | None], dict[str, str]],
    progress: Callable[[int, int], None] | None,
) -> tuple[int, dict[str, str]]:  # fmt: skip
    """Write the stored tensors of these names as one file. Gives its size, and their content hashes.

    strings: the file's ``__metadata__``; asked before any byte is written, and with the hashes when all are. Both
             answers have the same length.
    """
    stored = {name: planned.stored[name] for name in names}
    infos = {name: planned.infos[name] for name in stored}
    offsets = arrange(infos)
    header = spell_header(infos, offsets, strings(None))
    size = len(header) + sum(info.nbytes for info in infos.values())
    target.reserve(size)
    jobs = [Job(name, tensor, len(header) + offsets[name]) for name, tensor in stored.items()]
    jobs.sort(key=lambda job: job.offset)
    sums = Streamer(target, crc=False, content=planned.keeps_record, progress=progress).run(jobs)
    hashes = {job.name: one.content for job, one in zip(jobs, sums, strict=True)}
    target.write_at(0, spell_header(infos, offsets, strings(hashes)))
    _check(target)
    return size, hashes


def _check(target: Target) -> None:
    """Let the reference reader open the file before it gets its name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(target.readable_path, framework="np") as file:
            file.keys()
    except SafetensorError as error:
        raise RejectedOutputError(
            f"the safetensors package refuses what was written: {error}", hint="please report this with the file"
        ) from error
