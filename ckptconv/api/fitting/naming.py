"""Names that a graph lost, given back by an architecture.

An exporter that computes something from a weight stores the result under a name of its own: the weight of a linear
layer transposed, as ``onnx::MatMul_25``. The graph still says where each is used; an architecture says which names are
missing, and their shapes. Which belongs to which is decided in `matching`; here the checkpoint is renamed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.api.fitting.matching import match
from ckptconv.core.report import Finding
from ckptconv.core.text import listed
from ckptconv.edits.views import permuted
from ckptconv.formats.onnx.lost import Lost, is_given

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from ckptconv.api.fitting.matching import Matches
    from ckptconv.api.request import Request
    from ckptconv.arch.table import Table
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor


def named_by_architecture(checkpoint: Checkpoint, request: Request) -> Checkpoint:
    """The checkpoint with names that the architecture which was named gives back, and findings that say which; itself
    where there are none.
    """
    lost = _lost(checkpoint)
    made_up = checkpoint.notes.graph is not None and any(
        map(is_given, checkpoint)
    )  # constants alone, where none is lost
    if request.arch is None or not (lost or made_up):
        return checkpoint
    from ckptconv.api.fitting.resolve import table_for

    table = table_for(request, checkpoint)
    if table is None:
        return checkpoint
    missing = {name: entry.shape for name, entry in table.tensors.items() if name not in checkpoint}
    lost = [one for one in lost if one.name not in table.tensors]
    found = match(lost, {one.name: checkpoint[one.name].info.shape for one in lost}, missing)
    return _renamed(checkpoint, found, {one.name for one in lost if one.transposed}, table)


def named_by_class(checkpoint: Checkpoint, config: str, settings: Sequence[str]) -> Checkpoint:
    """The checkpoint with the names that the class of a ``config.json`` holds, where transformers only renames tensors
    as it writes them; itself where it has them, or where they are stacked on their way. Reads nothing.
    """
    from ckptconv.arch.factory import made
    from ckptconv.arch.huggingface import has_names_of_disk, held_names

    with made(config, (), settings, device="meta") as (module, _):
        names = held_names(module) if has_names_of_disk(module, checkpoint.keys()) else {}
    changed = [name for name in checkpoint if names.get(name, name) != name]
    if not changed:
        return checkpoint
    said = listed([f"{names[name]!r} is {name!r}" for name in changed], 3)
    message = f"named as the class holds them: {said}"
    found = Finding("named", "info", names[changed[0]], message)
    tensors = {names.get(name, name): tensor for name, tensor in checkpoint.items()}
    return checkpoint.with_tensors(tensors, (*checkpoint.findings, found))


def _lost(checkpoint: Checkpoint) -> list[Lost]:
    graph = checkpoint.notes.graph
    rows = graph.get("unnamed") if isinstance(graph, dict) else None
    if not isinstance(rows, list):
        return []
    return [one for one in (Lost.from_dict(row) for row in rows) if one.name in checkpoint]


def _constants(tensors: Mapping[str, LazyTensor], table: Table) -> list[str]:
    """Tensors whose names were made up and that the architecture, all of whose tensors are there, does not have."""
    needed = [name for name, entry in table.tensors.items() if not entry.optional and entry.tied_to is None]
    if not all(name in tensors or name.endswith("num_batches_tracked") for name in needed):
        return []
    return [name for name in tensors if name not in table.tensors and is_given(name)]


def _renamed(checkpoint: Checkpoint, found: Matches, transposed: Container[str], table: Table) -> Checkpoint:
    made: dict[str, LazyTensor] = {}
    given: list[str] = []
    for name, tensor in checkpoint.items():
        new = found.names.get(name, name)
        image = permuted(tensor, (1, 0)) if new != name and name in transposed else tensor
        if image is None:
            new, image = name, tensor
        if new != name:
            given.append(f"{new!r} is the graph's {name!r}")
        made[new] = image
    place = {name: position for position, name in enumerate(table.tensors)}
    constants = _constants(made, table)
    for name in constants:
        del made[name]
    tensors = dict(sorted(made.items(), key=lambda item: place.get(item[0], len(place))))
    findings = _about(given, constants, found)
    solved = not any(is_given(name) for name in made)
    left = tuple(finding for finding in checkpoint.findings if finding.code != "unnamed" or not solved)
    return checkpoint.with_tensors(tensors, (*left, *findings))


def _about(given: Sequence[str], constants: Sequence[str], found: Matches) -> list[Finding]:
    findings: list[Finding] = []
    if given:
        message = f"named as the architecture has them: {listed(given, 3)}"
        findings.append(Finding("named", "info", next(iter(found.names.values())), message))
    if constants:
        message = (
            f"constants of the computation, which the architecture does not have, stay behind: {listed(constants, 3)}"
        )
        findings.append(Finding("constants", "info", constants[0], message))
    if found.shaped:
        message = (
            f"{len(found.shaped)} of them were matched by shape: no other name is missing that could be theirs, and "
            f"the graph does not say in which module they are used: {listed(found.shaped, 3)}"
        )
        findings.append(Finding("named-by-shape", "warning", found.shaped[0], message))
    if found.ordered:
        message = (
            f"{len(found.ordered)} of them were matched by order: they have shapes in common, and the graph computes "
            f"with them as the architecture lists them: {listed(found.ordered, 3)}"
        )
        findings.append(Finding("named-by-order", "warning", found.ordered[0], message))
    return findings
