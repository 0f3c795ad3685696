"""Writer of a GGUF file: version 3, little-endian.

As for safetensors, all is planned from headers, tensors are streamed to their places, and the header goes in last, with
the content digest where there is a record to hold it. Tensors keep their order, and blocks are copied as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import pack
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.record import Encoding, Record
from ckptconv.core.report import Finding
from ckptconv.errors import LimitError, RejectedOutputError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.blobs import move_out
from ckptconv.formats.gguf.layout import CODE_BY_NAME, MAGIC, VERSION, alignment_of
from ckptconv.formats.gguf.metadata import entries, says_it_all
from ckptconv.formats.gguf.stored import accepted, stored_as
from ckptconv.formats.gguf.values import Typed, code_of, spell, spell_text
from ckptconv.io.digest import PLACEHOLDER, combine
from ckptconv.io.limits import MAX_GGUF_HEADER
from ckptconv.io.stream import Job, Streamer

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.formats.base import WriteOptions
    from ckptconv.io.target import Target


@dataclass(slots=True)
class _Plan:
    """What will be in the file: tensors by the name they are stored under, and the metadata."""

    stored: dict[str, LazyTensor]
    infos: dict[str, TensorInfo]
    record: Record
    root: MetaNode
    keeps_record: bool

    def values(self, digest: str | None) -> dict[str, Typed]:
        """The file's metadata."""
        record = replace(self.record, root=self.root, digest=digest)
        said = entries(record)
        return {**said, records.KEY: ("string", record.spell(self.infos))} if self.keeps_record else said


def _plan(checkpoint: Checkpoint, *, plain: bool) -> _Plan:
    """Decide names, types and metadata. `plain` leaves the record out where the tensors can do without it."""
    tensors = checkpoint.all_tensors
    tied = checkpoint.tied_to
    silent = plain or says_it_all(checkpoint)
    root, moved = (checkpoint.root, {}) if silent else move_out(checkpoint.root, tensors)
    record = Record(refs_are_model=records.refs_are_model(checkpoint), notes=checkpoint.notes)
    stored: dict[str, LazyTensor] = {}
    infos: dict[str, TensorInfo] = {}
    taken = {*tensors, *moved}
    for position, (name, tensor) in enumerate({**tensors, **moved}.items()):
        if name in tied:
            record.ties.append((name, tied[name], position))
            continue
        spelled = accepted(name, taken)
        taken.add(spelled)
        info = stored_as(tensor.info)
        stored[spelled], infos[spelled] = tensor, info
        if spelled != name:
            record.names[spelled] = name
        if info != tensor.info:
            record.encodings[name] = Encoding(tensor.info.dtype.name, tensor.info.shape)
    needed = bool(record.names or record.encodings or record.ties)
    return _Plan(stored, infos, record, root, not silent or needed)


def _offsets(infos: dict[str, TensorInfo], alignment: int) -> tuple[dict[str, int], int]:
    """Offsets within the data, by name, and its size."""
    offsets, position = {}, 0
    for name, info in infos.items():
        offsets[name] = position
        position += info.nbytes + -info.nbytes % alignment
    return offsets, position


def _header(plan: _Plan, values: dict[str, Typed], offsets: dict[str, int]) -> bytes:
    parts = [MAGIC, pack("<IQQ", VERSION, len(plan.infos), len(values))]
    for key, (name, value) in values.items():
        parts += [spell_text(key), pack("<I", code_of(name)), spell(name, value)]
    for name, info in plan.infos.items():
        dims = info.shape[::-1]
        code = CODE_BY_NAME[info.dtype.name]
        parts += [spell_text(name), pack(f"<I{len(dims)}QIQ", len(dims), *dims, code, offsets[name])]
    text = b"".join(parts)
    if len(text) > MAX_GGUF_HEADER:
        raise LimitError(
            f"the header would have {len(text):,} bytes; the limit is {MAX_GGUF_HEADER:,}",
            hint="--bare leaves the metadata out",
        )
    return text + bytes(-len(text) % alignment_of(values))


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint. Raises LimitError, DamagedTensorError, RejectedOutputError."""
    plan = _plan(checkpoint, plain=options.plain)
    values = plan.values(PLACEHOLDER)
    offsets, length = _offsets(plan.infos, alignment_of(values))
    header = _header(plan, values, offsets)
    size = len(header) + length
    target.reserve(size)
    jobs = [Job(name, tensor, len(header) + offsets[name]) for name, tensor in plan.stored.items()]
    sums = Streamer(target, crc=False, content=plan.keeps_record, progress=options.progress).run(jobs)
    digest = None
    if plan.keeps_record:
        hashes = {plan.record.names.get(job.name, job.name): s.content for job, s in zip(jobs, sums, strict=True)}
        tied = checkpoint.tied_to
        digest = combine(checkpoint, {name: hashes[tied.get(name, name)] for name in checkpoint.all_tensors})
        header = _header(plan, plan.values(digest), offsets)
    target.write_at(0, header)
    return WriteResult(size, digest, _checked(target))


def _checked(target: Target) -> tuple[Finding, ...]:
    """Let the reference reader open the file before it gets its name; a finding where it is not installed."""
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError:
        message = "the gguf package, which would check the file, is not installed: pip install 'ckptconv[gguf]'"
        return (Finding("unchecked", "info", "", message),)
    try:
        GGUFReader(target.readable_path)
    except (ValueError, KeyError, IndexError) as error:
        raise RejectedOutputError(
            f"the gguf package refuses what was written: {error}", hint="please report this with the file"
        ) from error
    return ()
