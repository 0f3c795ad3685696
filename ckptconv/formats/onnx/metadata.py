"""The metadata in `metadata_props`: strings that others wrote, or our record."""

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


def find_record(strings: Mapping[str, str]) -> Record | None:
    """Our record among the strings. Raises UnsupportedError if it is of a newer version, CorruptFileError."""
    text = strings.get(records.KEY, "")
    return records.parse(text) if text.startswith("{") else None


def make_checkpoint(
    tensors: dict[str, LazyTensor],
    strings: Mapping[str, str],
    record: Record | None,
    findings: list[Finding],
    file: OpenFile,
) -> Checkpoint:
    """The checkpoint, with its metadata."""
    if record is not None:
        return _from_record(tensors, strings, record, findings, file)
    kept = {} if strings == {"format": records.FORMAT} else dict(strings)
    root = record_edits.add_strings(StateDict(), kept)
    return Checkpoint(
        tensors, root=root, format="onnx", notes=Notes(source="onnx"), findings=tuple(findings), file=file
    )


def _from_record(
    tensors: dict[str, LazyTensor], strings: Mapping[str, str], record: Record, findings: list[Finding], file: OpenFile
) -> Checkpoint:
    root = record_edits.take_edits(record, {key: text for key, text in strings.items() if key not in record.strings})
    constants = set(record.constants)
    model = {name: tensor for name, tensor in tensors.items() if name not in constants}
    named = own_tensors(model, record, findings)
    root = restore(root, named, findings)
    return recorded_checkpoint(record, root, named, findings, format="onnx", file=file)
