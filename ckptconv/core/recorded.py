"""A checkpoint from its stored tensors and the record beside them."""

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
    """Put tied names back in their places, and extras out of the model's.

    root:   the record's tree, after what other tools did to it (`record_edits.take_edits`).
    stored: tensors by their names, tied ones once. Whatever the record says that the file contradicts is ignored,
            with a finding.
    """
    tensors = _with_ties(_in_order(stored, record), record, findings)
    root = prune(root, tensors, findings)
    refs = {node.name for node in nodes_of(root, TensorRef)}
    composites = _composites(record, tensors, findings)
    refs |= {part for one in composites.values() if one.parts[VALUES] in refs for part in one.parts.values()}
    outside = refs & set(record.extras) if record.refs_are_model else refs
    model = {name: tensor for name, tensor in tensors.items() if name not in outside}
    return Checkpoint(
        model,
        extras={name: tensors[name] for name in tensors if name in outside},
        composites=composites,
        root=_with_room(root, model, refs),
        format=format,
        notes=_notes(record, tensors, model, composites),
        findings=tuple(findings),
        file=file,
    )


def _in_order(stored: dict[str, LazyTensor], record: Record) -> dict[str, LazyTensor]:
    """As the record has them where the format keeps another order; what it does not know comes last."""
    if not record.order:
        return stored
    places = {name: place for place, name in enumerate(record.order)}
    return dict(sorted(stored.items(), key=lambda item: places.get(item[0], len(places))))


def _composites(record: Record, tensors: dict[str, LazyTensor], findings: list[Finding]) -> dict[str, Composite]:
    """Quantized and sparse tensors, as far as the headers of their parts agree; else the parts stay what they are."""
    infos = infos_of(tensors)
    good: dict[str, Composite] = {}
    taken: set[str] = set()
    for name, one in record.composites.items():
        parts = set(one.parts.values())
        wrong = problem(one, infos)
        if wrong is None and (parts & taken or (name in tensors and name not in parts)):
            wrong = "another tensor has its name or its parts"
        if wrong is None:
            good[name], taken = one, taken | parts
            continue
        message = f"the record says that {name!r} is made of parts, and {wrong}; they are read as tensors of their own"
        findings.append(Finding("composite", "warning", name, message))
    return good


def _notes(
    record: Record,
    tensors: dict[str, LazyTensor],
    model: dict[str, LazyTensor],
    composites: Mapping[str, Composite],
) -> Notes:
    """The bookkeeping, as far as the file has what it speaks of."""
    return replace(
        record.notes,
        tensors=_expand(record, tensors),
        quantized=_quantized(record, model, composites),
        between=tuple(name for name in record.notes.between if name in model),
        digest=record.digest,
    )


def _quantized(
    record: Record, model: dict[str, LazyTensor], composites: Mapping[str, Composite]
) -> tuple[QuantizedWeight, ...]:
    """Weights that a graph computed, as far as their parts are still there; of the same integers, the first."""
    taken = {part for one in composites.values() for part in one.parts.values()}
    good: dict[str, QuantizedWeight] = {}
    for one in record.notes.quantized:
        if all(part in model and part not in taken for part in one.parts.values()):
            good.setdefault(one.values, one)
    return tuple({one.name: one for one in reversed(good.values())}.values())[::-1]


def _with_ties(tensors: dict[str, LazyTensor], record: Record, findings: list[Finding]) -> dict[str, LazyTensor]:
    """The tensors with tied names, and those that the record holds itself, back in their places."""
    names = list(tensors)
    inline = {one.name: one for one in record.inline if one.name not in tensors}
    tensors.update({name: _small(one, record) for name, one in inline.items()})
    rows = [*record.ties, *((name, None, one.position) for name, one in inline.items())]
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


def _small(one: Inline, record: Record) -> LazyTensor:
    return in_memory(one.info, one.data, alias=(id(record), one.name))


def _expand(record: Record, tensors: dict[str, LazyTensor]) -> dict[str, TensorNote]:
    """Notes by name; what the record says of "*" holds for every tensor."""
    noted = record.notes.tensors
    everyone = noted.get("*")
    if everyone is None:
        return {name: note for name, note in noted.items() if name in tensors}
    return {name: noted.get(name, everyone) for name in tensors}


def _with_room(root: MetaNode, model: dict[str, LazyTensor], refs: set[str]) -> MetaNode:
    """A tensor that another tool has added, in a file that had no state_dict, needs one to stand in."""
    holes = [node.prefix for node in nodes_of(root, StateDict)]
    if all(name in refs or any(name.startswith(prefix) for prefix in holes) for name in model):
        return root
    return {**root, "state_dict": StateDict()} if type(root) is dict else {"data": root, "state_dict": StateDict()}
