"""Reader of one safetensors file: the header, and our record where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.checkpoint import Checkpoint, Notes
from ckptconv.core.encodings import decoded
from ckptconv.core.metadata import StateDict
from ckptconv.core.record_edits import add_strings, take_edits
from ckptconv.core.recorded import recorded_checkpoint
from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan, LazyTensor, SpanReader
from ckptconv.formats.blobs import restore
from ckptconv.formats.safetensors.encodings import can_decode
from ckptconv.formats.safetensors.layout import Header, Slot, read_header

if TYPE_CHECKING:
    from ckptconv.core.record import Record
    from ckptconv.io.source import Source


def read(source: Source) -> Checkpoint:
    """Open the file: its header, and metadata that was too large for it; no tensor byte.

    Raises CorruptFileError, LimitError, and UnsupportedError for a record of a newer version.
    """
    header = read_header(source)
    text = header.metadata.get(records.KEY)
    if text is None or not text.startswith("{"):
        return _foreign(source, header)
    return _ours(source, header, records.parse(text))


def _tensor(source: Source, name: str, slot: Slot) -> LazyTensor:
    span = ByteSpan(source, slot.start, slot.info.nbytes)
    return LazyTensor(slot.info, SpanReader(span), span, (id(source), name), (span,))


def _foreign(source: Source, header: Header) -> Checkpoint:
    """A file that others wrote: its strings stay strings; ``format: pt`` alone is bookkeeping."""
    findings: list[Finding] = []
    strings = dict(header.metadata)
    tensors = {name: _tensor(source, name, slot) for name, slot in header.slots.items()}
    for dropped, kept in header.metadata.items():
        if _looks_like_a_tie(dropped, kept, tensors):
            tensors[dropped] = tensors[kept]
            del strings[dropped]
            findings.append(
                Finding("tie", "info", dropped, f"{dropped!r} is read as tied to {kept!r}, as the metadata says")
            )
    if strings == {"format": records.FORMAT}:
        strings = {}
    root = add_strings(StateDict(), strings)
    notes = Notes(source="safetensors")
    return Checkpoint(tensors, root=root, format="safetensors", notes=notes, findings=tuple(findings), file=source)


def _looks_like_a_tie(dropped: str, kept: str, tensors: dict[str, LazyTensor]) -> bool:
    """How the package's `save_model` notes a tied name: the name, mapped to the one that is stored."""
    return kept in tensors and dropped not in tensors and records.reads_as_tie(dropped, kept)


def _ours(source: Source, header: Header, record: Record) -> Checkpoint:
    findings: list[Finding] = []
    tensors: dict[str, LazyTensor] = {}
    for stored, slot in header.slots.items():
        tensor = _tensor(source, stored, slot)
        tensors[record.names.get(stored, stored)] = decoded(stored, tensor, record, findings, can_decode)
    root = restore(take_edits(record, header.metadata), tensors, findings)
    return recorded_checkpoint(record, root, tensors, findings, format="safetensors", file=source)
