"""Reads an HDF5 file with our record, and takes over what other tools changed in its attributes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.encodings import own_tensors
from ckptconv.core.record_edits import add_values, take_edits
from ckptconv.core.recorded import recorded_checkpoint
from ckptconv.core.spelling import same
from ckptconv.formats.code.keras import findings_in, programs_in
from ckptconv.formats.hdf5.writer.placing import as_text, visible
from ckptconv.formats.hdf5.writer.stored import stored_as
from ckptconv.formats.targets.blobs import restore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint, OpenFile
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.record import Record
    from ckptconv.formats.hdf5.tree import Tree


def checkpoint_from_record(
    tree: Tree, record: Record, documents: Mapping[str, MetaNode], format: str, file: OpenFile | None
) -> Checkpoint:
    """The checkpoint that the record describes; `documents` is metadata that is kept outside the HDF5 file."""
    findings = list(tree.findings)
    tensors = own_tensors(tree.tensors, record, findings, stored_as)
    root = add_values(restore(_edited(record, tree), tensors, findings), documents)
    result = recorded_checkpoint(record, root, tensors, findings, format=format, file=file)
    metadata = result.metadata
    notes = replace(result.notes, programs=tuple(programs_in(metadata)))
    return result.replaced(notes=notes, findings=(*result.findings, *findings_in(metadata)))


def _edited(record: Record, tree: Tree) -> MetaNode:
    """The record's metadata tree, with attributes that other tools changed, added or removed."""
    found: dict[str, MetaNode] = {**tree.values, **tree.attributes.get("", {})}
    found |= {path: attributes for path, attributes in tree.attributes.items() if path}
    found.pop(records.KEY, None)
    known = dict(visible(record))
    hidden = {key: records.readable(value) for key, value in records.visible(record) if key not in known}
    texts = {key: _readable(found.pop(key), value) for key, value in known.items() if key in found}
    return add_values(take_edits(record, {**hidden, **texts}), found)


def _readable(found: MetaNode, value: MetaNode) -> str:
    """The readable text of an attribute: that of the recorded `value`, if the attribute is unchanged."""
    return records.readable(value if same(found, value) or found == as_text(value) else found)
