"""Rebuilds a checkpoint from its stored tensors and its record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.composite import VALUES, problem
from ckptconv.core.metadata import MetaNode, StateDict, TensorRef, nodes_of
from ckptconv.core.record_edits import prune
from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, in_memory, infos_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import OpenFile
    from ckptconv.core.composite import Composite
    from ckptconv.core.notes import Notes, QuantizedWeight, TensorNote
    from ckptconv.core.record import Inline, Record


def recorded_checkpoint(
    record: Record,
    root: MetaNode,
    stored: dict[str, LazyTensor],
    findings: list[Finding],
    *,
    format: str,
    file: OpenFile | None,
) -> Checkpoint:
    """Restore tied names in their places, and separate extras from the model.

    root:   the record's tree, with the changes that other tools made (`record_edits.take_edits`).
    stored: the tensors by name, tied ones once.

    Anything in the record that the file contradicts is ignored, with a finding.
    """
    tensors = _with_ties(_in_recorded_order(stored, record), record, findings)
    root = prune(root, tensors, findings)
    refs = {node.name for node in nodes_of(root, TensorRef)}
    composites = _composites(record, tensors, findings)
    for composite in composites.values():
        if composite.parts[VALUES] in refs:
            refs |= set(composite.parts.values())
    outside = refs & set(record.extras) if record.refs_are_model else refs
    model = {name: tensor for name, tensor in tensors.items() if name not in outside}
    return Checkpoint(
        model,
        extras={name: tensors[name] for name in tensors if name in outside},
        composites=composites,
        root=_with_room_for(root, model, refs),
        format=format,
        notes=_notes(record, tensors, model, composites),
        findings=tuple(findings),
        file=file,
    )


def _in_recorded_order(stored: dict[str, LazyTensor], record: Record) -> dict[str, LazyTensor]:
    """The tensors in the record's order, if it has one; tensors that it does not know come last."""
    if not record.order:
        return stored
    position = {name: index for index, name in enumerate(record.order)}
    return dict(sorted(stored.items(), key=lambda item: position.get(item[0], len(position))))


def _composites(record: Record, tensors: dict[str, LazyTensor], findings: list[Finding]) -> dict[str, Composite]:
    """The quantized and sparse tensors whose parts have the right headers. Parts of others stay plain tensors."""
    infos = infos_of(tensors)
    valid: dict[str, Composite] = {}
    taken: set[str] = set()
    for name, composite in record.composites.items():
        parts = set(composite.parts.values())
        wrong = problem(composite, infos)
        if wrong is None and (parts & taken or (name in tensors and name not in parts)):
            wrong = "another tensor has its name or its parts"
        if wrong is None:
            valid[name], taken = composite, taken | parts
            continue
        message = f"the record says that {name!r} is made of parts, and {wrong}; they are read as tensors of their own"
        findings.append(Finding("composite", "warning", name, message))
    return valid


def _notes(
    record: Record,
    tensors: dict[str, LazyTensor],
    model: dict[str, LazyTensor],
    composites: Mapping[str, Composite],
) -> Notes:
    """The notes about tensors that the file has."""
    return replace(
        record.notes,
        tensors=_expanded_notes(record, tensors),
        quantized=_quantized(record, model, composites),
        between=tuple(name for name in record.notes.between if name in model),
        digest=record.digest,
    )


def _quantized(
    record: Record, model: dict[str, LazyTensor], composites: Mapping[str, Composite]
) -> tuple[QuantizedWeight, ...]:
    """The weights that a graph computed whose parts still exist; the first of those with the same integers or name."""
    taken = {part for composite in composites.values() for part in composite.parts.values()}
    by_values: dict[str, QuantizedWeight] = {}
    for weight in record.notes.quantized:
        if all(part in model and part not in taken for part in weight.parts.values()):
            by_values.setdefault(weight.values, weight)
    return tuple({weight.name: weight for weight in reversed(by_values.values())}.values())[::-1]


def _with_ties(tensors: dict[str, LazyTensor], record: Record, findings: list[Finding]) -> dict[str, LazyTensor]:
    """The tensors with tied names, and with the tensors that are in the record, in their places."""
    names = list(tensors)
    inline = {small.name: small for small in record.inline if small.name not in tensors}
    tensors.update({name: _inline_tensor(small, record) for name, small in inline.items()})
    rows = [*record.ties, *((name, None, small.position) for name, small in inline.items())]
    for dropped, kept, position in sorted(rows, key=lambda row: row[2]):
        if kept is None:
            names.insert(position, dropped)
            continue
        if dropped in tensors or kept not in tensors:
            message = f"the record ties {dropped!r} to {kept!r}, which the file contradicts; it is ignored"
            findings.append(Finding("tie", "warning", dropped, message, expected=kept))
            continue
        tensors[dropped] = tensors[kept]
        names.insert(position, dropped)
    return {name: tensors[name] for name in names}


def _inline_tensor(inline: Inline, record: Record) -> LazyTensor:
    return in_memory(inline.info, inline.data, alias=(id(record), inline.name))


def _expanded_notes(record: Record, tensors: dict[str, LazyTensor]) -> dict[str, TensorNote]:
    """The notes by name; the record's note about "*" holds for every tensor without one of its own."""
    notes = record.notes.tensors
    note_for_all = notes.get("*")
    if note_for_all is None:
        return {name: note for name, note in notes.items() if name in tensors}
    return {name: notes.get(name, note_for_all) for name in tensors}


def _with_room_for(root: MetaNode, model: dict[str, LazyTensor], refs: set[str]) -> MetaNode:
    """The tree with a state_dict, if a tensor has no place in it: another tool added it to a file without one."""
    prefixes = tuple(node.prefix for node in nodes_of(root, StateDict))
    if all(name in refs or name.startswith(prefixes) for name in model):
        return root
    return {**root, "state_dict": StateDict()} if type(root) is dict else {"data": root, "state_dict": StateDict()}
