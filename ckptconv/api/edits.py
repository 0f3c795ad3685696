"""What people do while converting: select, drop, rename, rules, casts, in this order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import StateDict, TensorRef, walk
from ckptconv.core.report import Finding
from ckptconv.edits.apply import apply, inverted, steps_of
from ckptconv.edits.cast import Loss, loss_of
from ckptconv.edits.rules import read_rules
from ckptconv.edits.select import NameRule, cast_edits, rename_edit, selected
from ckptconv.errors import EditError, LossError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from os import PathLike

    from ckptconv.core.edit import Edit
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What is to be done to the model's tensors on their way.

    select, drop: globs over the source's names; ``*`` crosses dots.
    names:        prefixes and substitutions, and rules files (their paths), in the order in which they are made.
    reverse:      undo the rules files instead.
    dtype:        ``"BF16"`` for all floats, ``"GLOB=F32"`` for some; the last that matches counts.
    """

    select: Sequence[str] = ()
    drop: Sequence[str] = ()
    names: Sequence[NameRule | str | PathLike[str]] = ()
    reverse: bool = False
    dtype: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.select or self.drop or self.names or self.reverse or self.dtype)


@dataclass(frozen=True, slots=True)
class Move:
    """One row of the plan: the names a tensor comes from, its new name, type and shape."""

    sources: tuple[str, ...]
    target: str
    dtype: str
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Json]:
        """The row as ``convert --dry-run --json`` prints it."""
        return {"sources": list(self.sources), "target": self.target, "dtype": self.dtype, "shape": list(self.shape)}


def edited(checkpoint: Checkpoint, wanted: Edits) -> tuple[Checkpoint, dict[str, tuple[str, ...]]]:
    """The checkpoint after `wanted`, no tensor read, and for each of its names those that it comes from.

    Raises EditError, UsageError, and what reading a rules file raises.
    """
    if wanted.reverse and not any(not isinstance(rule, NameRule) for rule in wanted.names):
        raise UsageError("there are no rules to reverse", hint="--reverse goes with --rules FILE")
    chosen = selected(list(checkpoint), wanted.select, wanted.drop)
    tensors = {name: checkpoint[name] for name in chosen}
    origins: dict[str, tuple[str, ...]] = {name: (name,) for name in tensors}
    for rule in wanted.names:
        if isinstance(rule, NameRule):
            edits = [rename_edit(rule, list(tensors))]
        else:
            edits = inverted(read_rules(rule)) if wanted.reverse else read_rules(rule)
        for edit in edits:
            tensors, origins = _applied(tensors, origins, edit)
    for edit in cast_edits(wanted.dtype, tensors):
        tensors, origins = _applied(tensors, origins, edit)
    return _rebuilt(checkpoint, tensors, origins), origins


def _applied(
    tensors: Mapping[str, LazyTensor], origins: Mapping[str, tuple[str, ...]], edit: Edit
) -> tuple[dict[str, LazyTensor], dict[str, tuple[str, ...]]]:
    steps = steps_of(edit, list(tensors))
    made = apply(tensors, [replace(edit, steps=steps)])
    come = {
        target: tuple(dict.fromkeys(old for source in step.sources for old in origins.get(source, (source,))))
        for step in steps
        for target in step.targets
    }
    return made, {name: come.get(name) or origins[name] for name in made}


def _rebuilt(
    checkpoint: Checkpoint, tensors: dict[str, LazyTensor], origins: Mapping[str, tuple[str, ...]]
) -> Checkpoint:
    """The checkpoint around its new tensors: its metadata as it was, bookkeeping under the new names."""
    moved = {olds[0]: new for new, olds in origins.items() if len(olds) == 1}
    unchanged = {new for new, olds in origins.items() if len(olds) == 1 and tensors[new] is checkpoint.get(olds[0])}
    renamed = any(new != old for old, new in moved.items()) or len(moved) != len(checkpoint)
    root = _rooted(checkpoint, tensors, moved) if renamed else checkpoint.root
    notes = checkpoint.notes
    findings = list(checkpoint.findings)
    if notes.arch is not None and (renamed or len(unchanged) < len(tensors)):
        findings.append(
            Finding("arch-note", "info", "", "the note of its architecture is dropped: its tensors are others")
        )
        notes = replace(notes, arch=None)
    extras = set(checkpoint.extras)
    notes = replace(
        notes,
        tensors={moved.get(n, n): note for n, note in notes.tensors.items() if n in moved or n in extras},
        strides={moved.get(n, n): row for n, row in notes.strides.items() if moved.get(n) in unchanged or n in extras},
        attributes={moved.get(n, n): node for n, node in notes.attributes.items() if n in moved or n in extras},
        digest=None,
    )
    return Checkpoint(
        tensors, extras=checkpoint.extras, root=root, format=checkpoint.format, notes=notes, findings=tuple(findings),
        file=checkpoint.file,
    )  # fmt: skip


def _rooted(checkpoint: Checkpoint, tensors: Mapping[str, LazyTensor], moved: Mapping[str, str]) -> MetaNode:
    """The tree with the module versions of renamed modules under their new paths."""
    holes = [node for _, node in walk(checkpoint.root) if isinstance(node, StateDict)]
    single = [node.name for _, node in walk(checkpoint.root) if isinstance(node, TensorRef) and node.name in checkpoint]
    lost = [name for name in tensors if not any(name.startswith(hole.prefix) for hole in holes)]
    if single and any(moved.get(name) != name for name in single):
        raise EditError(f"{single[0]!r} is no part of a state_dict, and keeps its name", hint="--bare makes one of all")
    if lost and not single:
        prefixes = ", ".join(repr(hole.prefix) for hole in holes)
        raise EditError(f"{lost[0]!r} would be in none of the file's dicts, {prefixes}", hint="--bare makes one of all")
    old = holes[0].versions if len(holes) == 1 else None
    if not isinstance(old, dict):
        return checkpoint.root
    paths = {before.rpartition(".")[0]: now.rpartition(".")[0] for before, now in moved.items() if before != now}
    versions = old.copy()
    versions.clear()
    versions.update({paths.get(path, path) if isinstance(path, str) else path: entry for path, entry in old.items()})
    return _replaced(checkpoint.root, holes[0], replace(holes[0], versions=versions))


def _replaced(node: MetaNode, old: StateDict, new: StateDict) -> MetaNode:
    """The tree with one hole in another's place; containers on the way are copied."""
    if node is old:
        return new
    if isinstance(node, dict):
        made = node.copy()
        made.update({key: _replaced(value, old, new) for key, value in node.items()})
        return made
    if type(node) is list or type(node) is tuple:
        return type(node)(_replaced(item, old, new) for item in node)
    return node


def plan_of(checkpoint: Checkpoint, origins: Mapping[str, tuple[str, ...]]) -> list[Move]:
    """What becomes of what, in the target's order."""
    return [
        Move(origins.get(name, (name,)), name, tensor.info.dtype.name, tensor.info.shape)
        for name, tensor in checkpoint.items()
    ]


def check_casts(checkpoint: Checkpoint, allowed: Collection[str]) -> list[Finding]:
    """What casting lost, once everything has been read. Raises LossError where values overflowed without consent."""
    found: list[Finding] = []
    over: list[Finding] = []
    total, count = Loss(), 0
    for name, tensor in checkpoint.items():
        loss = loss_of(tensor)
        if loss is None or name in checkpoint.tied_to:
            continue
        count += 1
        total.add(loss)
        if loss.overflowed:
            message = f"{name}: {loss.overflowed:,} finite values are past the range of {tensor.info.dtype}"
            over.append(Finding("overflow", "error", name, message, None, str(loss.overflowed)))
    if over and not {"overflow", "all"} & set(allowed):
        raise LossError(over, hint="--allow-loss overflow makes them infinite or NaN; or choose a wider type for these")
    if count:
        flushed = f", {total.flushed:,} values became 0" if total.flushed else ""
        message = f"{count} tensors are cast: the largest relative error is {total.max_rel:.3g}{flushed}"
        found.append(Finding("cast", "info", "", message, None, f"{total.max_rel:.9g}"))
    return [*found, *(replace(one, severity="warning") for one in over)]
