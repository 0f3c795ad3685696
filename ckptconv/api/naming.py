"""Names that a graph lost, from an architecture: by role and shape, and never by guess where two would do.

An exporter that computes something from a weight stores the result under a name of its own: the weight of a linear
layer transposed, as ``onnx::MatMul_25``. The graph still says where each is used; an architecture says which names are
missing, and their shapes.

    unique    one tensor and one missing name have this role and shape: they are one another's
    in order  as many tensors as missing names have them: they are matched in the order in which the graph computes and
              the architecture lists them; that is said, since shapes do not prove it

Where the counts differ nothing is matched.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.report import Finding
from ckptconv.edits.views import permuted
from ckptconv.formats.onnx.names import is_given

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ckptconv.arch.table import Table
    from ckptconv.core.tensor import LazyTensor

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """A tensor that the graph has under a name of its own; `turned`: a product takes it from the right."""

    name: str
    turned: bool
    kind: str


def named_by_architecture(checkpoint: Checkpoint, arch: str | None, path: Path, settings: Sequence[str]) -> Checkpoint:
    """The checkpoint with names that `arch` gives back, and findings that say which; itself where there are none."""
    lost = _lost(checkpoint)
    if arch is None or not lost:
        return checkpoint
    table = _table(checkpoint, arch, path, settings)
    if table is None:
        return checkpoint
    missing = {name: entry.shape for name, entry in table.tensors.items() if name not in checkpoint}
    pairs, ordered = match(lost, {name: checkpoint[name].info.shape for name in checkpoint}, missing)
    return _renamed(checkpoint, pairs, ordered, table)


def _lost(checkpoint: Checkpoint) -> list[Lost]:
    graph = checkpoint.notes.graph
    rows = graph.get("unnamed") if isinstance(graph, dict) else None
    if not isinstance(rows, list):
        return []
    return [Lost(name, bool(turned), str(kind)) for name, turned, kind in rows if name in checkpoint]


def _table(checkpoint: Checkpoint, arch: str, path: Path, settings: Sequence[str]) -> Table | None:
    from ckptconv.api.arch import resolve
    from ckptconv.arch.solver import solve

    chosen = resolve(arch, path, checkpoint, settings)
    if chosen.table is not None:
        return chosen.table
    assert chosen.spec is not None
    infos = {name: tensor.info for name, tensor in checkpoint.items()}
    return solve(chosen.spec, infos, chosen.sources).table


def match(
    lost: Sequence[Lost], shapes: Mapping[str, tuple[int, ...]], missing: Mapping[str, Shape]
) -> tuple[dict[str, tuple[str, bool]], list[str]]:
    """(the graph's name → the model's and whether it is transposed, the model's names that order alone decided).

    lost: in the order in which the graph uses them. missing: in the architecture's order.
    """
    tensors: dict[tuple[str, Shape], list[Lost]] = defaultdict(list)
    names: dict[tuple[str, Shape], list[str]] = defaultdict(list)
    for one in lost:
        shape = shapes[one.name]
        tensors[one.kind, shape[::-1] if one.turned else shape].append(one)
    kinds = {kind for kind, _ in tensors}
    for name, expected in missing.items():
        for kind in kinds:
            if (kind, expected) in tensors and _may_be(kind, name):
                names[kind, expected].append(name)
    pairs: dict[str, tuple[str, bool]] = {}
    ordered: list[str] = []
    for key, group in tensors.items():
        wanted = names.get(key, [])
        if len(wanted) != len(group):
            continue
        for one, name in zip(group, wanted, strict=True):
            pairs[one.name] = name, one.turned
        if len(group) > 1:
            ordered += wanted
    taken = [name for name, _ in pairs.values()]
    twice = {name for name in taken if taken.count(name) > 1}
    pairs = {old: new for old, new in pairs.items() if new[0] not in twice}
    return pairs, [name for name in ordered if name not in twice]


def _may_be(kind: str, name: str) -> bool:
    """Whether a node of this kind takes a tensor of this name: a recurrent layer's own names end alike."""
    role, _, ending = kind.partition(":")
    own = name.rpartition(".")[2]
    return own == ending if role == "recurrent" else not own.startswith(("weight_ih_l", "weight_hh_l"))


def _constants(tensors: Mapping[str, LazyTensor], table: Table) -> list[str]:
    """Tensors whose names were made up and that the architecture, all of whose tensors are there, does not have."""
    needed = [name for name, entry in table.tensors.items() if not entry.optional and entry.tied_to is None]
    if not all(name in tensors or name.endswith("num_batches_tracked") for name in needed):
        return []
    return [name for name in tensors if name not in table.tensors and is_given(name)]


def _list(parts: Sequence[str], most: int = 3) -> str:
    return ", ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")


def _renamed(
    checkpoint: Checkpoint, pairs: Mapping[str, tuple[str, bool]], ordered: Sequence[str], table: Table
) -> Checkpoint:
    made: dict[str, LazyTensor] = {}
    given: list[str] = []
    for name, tensor in checkpoint.items():
        new, turned = pairs.get(name, (name, False))
        image = permuted(tensor, (1, 0)) if turned else tensor
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
    findings: list[Finding] = []
    if given:
        message = f"{len(given)} names are the architecture's: {_list(given)}"
        findings.append(Finding("named", "info", next(iter(pairs.values()))[0], message))
    if constants:
        message = f"constants of the computation, which the architecture does not have, stay behind: {_list(constants)}"
        findings.append(Finding("constants", "info", constants[0], message))
    if ordered:
        message = (
            f"{len(ordered)} of them have shapes in common, and were matched in the order in which the graph computes: "
            f"{_list(ordered)}"
        )
        findings.append(Finding("named-by-order", "warning", ordered[0], message))
    solved = not any(is_given(name) for name in made)
    left = tuple(finding for finding in checkpoint.findings if finding.code != "unnamed" or not solved)
    return Checkpoint(
        tensors, extras=checkpoint.extras, root=checkpoint.root, format=checkpoint.format, notes=checkpoint.notes,
        findings=(*left, *findings), file=checkpoint.file,
    )  # fmt: skip
