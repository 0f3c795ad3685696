"""What `metadata_props` say: strings that others wrote, or our record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core import record_edits
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.encodings import own_tensors
from ckptconv.core.metadata import StateDict
from ckptconv.core.notes import Notes
from ckptconv.core.recorded import recorded_checkpoint
from ckptconv.formats.targets.blobs import restore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import OpenFile
    from ckptconv.core.record import Record
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor


def our_record(strings: Mapping[str, str]) -> Record | None:
    """The record among the strings. Raises UnsupportedError for one of a newer version, CorruptFileError."""
    text = strings.get(records.KEY)
    return None if text is None or not text.startswith("{") else records.parse(text)


def as_recorded(
    tensors: dict[str, LazyTensor],
    strings: Mapping[str, str],
    record: Record | None,
    findings: list[Finding],
    file: OpenFile,
) -> Checkpoint:
    """The checkpoint, with its metadata."""
    if record is None:
        kept = {} if strings == {"format": records.FORMAT} else dict(strings)
        root = record_edits.add_strings(StateDict(), kept)
        return Checkpoint(
            tensors, root=root, format="onnx", notes=Notes(source="onnx"), findings=tuple(findings), file=file
        )
    return _ours(tensors, strings, record, findings, file)


def _ours(
    stored: dict[str, LazyTensor], strings: Mapping[str, str], record: Record, findings: list[Finding], file: OpenFile
) -> Checkpoint:
    root = record_edits.take_edits(record, {key: text for key, text in strings.items() if key not in record.strings})
    constants = set(record.constants)
    model = {name: tensor for name, tensor in stored.items() if name not in constants}
    named = own_tensors(model, record, findings)
    root = restore(root, named, findings)
    return recorded_checkpoint(record, root, named, findings, format="onnx", file=file)
