"""Gives a graph's tensors the names that its exporter dropped, by the architecture that it was exported from.

An exporter that transforms a weight stores the result under a name of its own: the transposed weight of a linear layer
becomes ``onnx::MatMul_25``. The graph still says where each tensor is used; an architecture says which names are
missing, and their shapes. `matching` decides which belongs to which; this module renames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.api.fitting.matching import match
from ckptconv.core.report import Finding
from ckptconv.core.text import listed
from ckptconv.edits.views import permuted
from ckptconv.formats.onnx.unnamed import UnnamedTensor, is_generated

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from ckptconv.api.fitting.matching import Matches
    from ckptconv.api.request import Request
    from ckptconv.arch.table import Table
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor


def restore_names_from_architecture(checkpoint: Checkpoint, request: Request) -> Checkpoint:
    """Rename the graph's tensors as the requested architecture has them, with findings about it.

    Returns the same checkpoint if no architecture is requested, or no name was dropped.
    """
    lost = _unnamed_tensors(checkpoint)
    has_generated = checkpoint.notes.graph is not None and any(map(is_generated, checkpoint))  # may be constants alone
    if request.arch is None or not (lost or has_generated):
        return checkpoint
    from ckptconv.api.fitting.resolve import table_for

    table = table_for(request, checkpoint)
    if table is None:
        return checkpoint
    missing = {name: entry.shape for name, entry in table.tensors.items() if name not in checkpoint}
    lost = [tensor for tensor in lost if tensor.name not in table.tensors]
    matches = match(lost, {tensor.name: checkpoint[tensor.name].info.shape for tensor in lost}, missing)
    return _renamed(checkpoint, matches, {tensor.name for tensor in lost if tensor.transposed}, table)


def use_names_of_class(checkpoint: Checkpoint, config: str, settings: Sequence[str]) -> Checkpoint:
    """Rename a checkpoint's tensors as the class of a ``config.json`` holds them in memory; reads no tensor.

    transformers saves some models under other names. Returns the same checkpoint if it has the class's names already,
    or if transformers does more than rename, such as stacking.
    """
    from ckptconv.arch.factory import built_module
    from ckptconv.arch.huggingface import has_names_of_disk, held_names

    with built_module(config, (), settings, device="meta") as (module, _):
        names = held_names(module) if has_names_of_disk(module, checkpoint.keys()) else {}
    changed = [name for name in checkpoint if names.get(name, name) != name]
    if not changed:
        return checkpoint
    message = f"named as the class holds them: {listed([f'{names[name]!r} is {name!r}' for name in changed], 3)}"
    finding = Finding("named", "info", names[changed[0]], message)
    tensors = {names.get(name, name): tensor for name, tensor in checkpoint.items()}
    return checkpoint.with_tensors(tensors, (*checkpoint.findings, finding))


def _unnamed_tensors(checkpoint: Checkpoint) -> list[UnnamedTensor]:
    graph = checkpoint.notes.graph
    rows = graph.get("unnamed") if isinstance(graph, dict) else None
    if not isinstance(rows, list):
        return []
    return [tensor for tensor in map(UnnamedTensor.from_dict, rows) if tensor.name in checkpoint]


def _made_up_constants(tensors: Mapping[str, LazyTensor], table: Table) -> list[str]:
    """Tensors with made-up names that the architecture does not have; none while any of its own tensors is missing."""
    required = [name for name, entry in table.tensors.items() if not entry.optional and entry.tied_to is None]
    if not all(name in tensors or name.endswith("num_batches_tracked") for name in required):
        return []
    return [name for name in tensors if name not in table.tensors and is_generated(name)]


def _renamed(checkpoint: Checkpoint, matches: Matches, transposed: Container[str], table: Table) -> Checkpoint:
    """The checkpoint under the matched names, in the architecture's order, without the computation's constants."""
    renamed: dict[str, LazyTensor] = {}
    changes: list[str] = []
    for name, tensor in checkpoint.items():
        new = matches.names.get(name, name)
        image = permuted(tensor, (1, 0)) if new != name and name in transposed else tensor
        if image is None:  # it cannot be transposed, and keeps its name
            new, image = name, tensor
        if new != name:
            changes.append(f"{new!r} is the graph's {name!r}")
        renamed[new] = image
    constants = _made_up_constants(renamed, table)
    for name in constants:
        del renamed[name]
    position = {name: index for index, name in enumerate(table.tensors)}
    tensors = dict(sorted(renamed.items(), key=lambda item: position.get(item[0], len(position))))
    findings = _renaming_findings(changes, constants, matches)
    all_named = not any(is_generated(name) for name in renamed)
    earlier = tuple(finding for finding in checkpoint.findings if finding.code != "unnamed" or not all_named)
    return checkpoint.with_tensors(tensors, (*earlier, *findings))


def _renaming_findings(changes: Sequence[str], constants: Sequence[str], matches: Matches) -> list[Finding]:
    findings: list[Finding] = []
    if changes:
        message = f"named as the architecture has them: {listed(changes, 3)}"
        findings.append(Finding("named", "info", next(iter(matches.names.values())), message))
    if constants:
        message = (
            f"constants of the computation, which the architecture does not have, stay behind: {listed(constants, 3)}"
        )
        findings.append(Finding("constants", "info", constants[0], message))
    if matches.by_shape:
        message = (
            f"{len(matches.by_shape)} of them were matched by shape: no other name is missing that could be theirs, "
            f"and the graph does not say in which module they are used: {listed(matches.by_shape, 3)}"
        )
        findings.append(Finding("named-by-shape", "warning", matches.by_shape[0], message))
    if matches.by_order:
        message = (
            f"{len(matches.by_order)} of them were matched by order: they have shapes in common, and the graph "
            f"computes with them as the architecture lists them: {listed(matches.by_order, 3)}"
        )
        findings.append(Finding("named-by-order", "warning", matches.by_order[0], message))
    return findings
