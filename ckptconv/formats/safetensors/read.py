"""Reader for a single safetensors file: the header, and our record if it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.encodings import own_tensors
from ckptconv.core.metadata import StateDict
from ckptconv.core.notes import Notes
from ckptconv.core.record_edits import add_strings, take_edits
from ckptconv.core.recorded import recorded_checkpoint
from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan, LazyTensor, in_file
from ckptconv.formats.safetensors import slice_files
from ckptconv.formats.safetensors.encodings import stored_as
from ckptconv.formats.safetensors.layout import Header, read_header
from ckptconv.formats.sets.shard_names import lone_shard_findings
from ckptconv.formats.targets.blobs import restore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.checkpoint import OpenFile
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.record import Record
    from ckptconv.io.source import Source


def read(source: Source) -> Checkpoint:
    """Open the file. Reads its header, and metadata that was too large for the header, but no tensor byte.

    Raises CorruptFileError, LimitError, and UnsupportedError for a record of a newer version.
    """
    header = read_header(source)
    findings = slice_files.slice_findings(source.path, header) or lone_shard_findings(source.path)
    strings = slice_files.strings_of(header)
    return assemble(tensors_of(source, header), strings, format="safetensors", file=source, findings=findings)


def tensors_of(source: Source, header: Header) -> dict[str, LazyTensor]:
    """The tensors of a header, by the names under which they are stored."""
    file = id(source)
    return {
        name: in_file(slot.info, ByteSpan(source, slot.start, slot.info.nbytes), (file, name))
        for name, slot in header.slots.items()
    }


def assemble(
    stored: dict[str, LazyTensor], strings: Mapping[str, MetaNode], *, format: str, file: OpenFile,
    findings: Sequence[Finding] = (),
) -> Checkpoint:  # fmt: skip
    """A checkpoint from stored tensors and string metadata, which may contain our record."""
    text = strings.get(records.KEY)
    if not isinstance(text, str) or not text.startswith("{"):
        return _foreign(stored, strings, format, file, list(findings))
    plain = {key: value for key, value in strings.items() if isinstance(value, str)}
    return _ours(stored, plain, records.parse(text), format, file, list(findings))


def _foreign(
    tensors: dict[str, LazyTensor], metadata: Mapping[str, MetaNode], format: str, file: OpenFile,
    findings: list[Finding],
) -> Checkpoint:  # fmt: skip
    """A file without our record: strings stay strings. ``format: pt`` alone is not metadata of the model."""
    strings = dict(metadata)
    for dropped, kept in metadata.items():
        if isinstance(kept, str) and _is_tie(dropped, kept, tensors):
            tensors[dropped] = tensors[kept]
            del strings[dropped]
            findings.append(
                Finding("tie", "info", dropped, f"{dropped!r} is read as tied to {kept!r}, as the metadata says")
            )
    if strings == {"format": records.FORMAT}:
        strings = {}
    root = add_strings(StateDict(), strings)
    notes = Notes(source="safetensors")
    return Checkpoint(tensors, root=root, format=format, notes=notes, findings=tuple(findings), file=file)


def _is_tie(dropped: str, kept: str, tensors: dict[str, LazyTensor]) -> bool:
    """Whether an entry records a tie as the package's `save_model` does: the dropped name, mapped to the stored one."""
    return kept in tensors and dropped not in tensors and records.reads_as_tie(dropped, kept)


def _ours(
    stored: dict[str, LazyTensor], strings: Mapping[str, str], record: Record, format: str, file: OpenFile,
    findings: list[Finding],
) -> Checkpoint:  # fmt: skip
    """A file with our record."""
    tensors = own_tensors(stored, record, findings, stored_as)
    root = restore(take_edits(record, strings), tensors, findings)
    return recorded_checkpoint(record, root, tensors, findings, format=format, file=file)
