"""Builds the checkpoint around edited tensors: the same metadata, and bookkeeping under the new names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.tensor import shapes_of
from ckptconv.edits.tree import rebuild_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.api.editing.state import State
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.notes import Notes
    from ckptconv.core.tensor import LazyTensor


def rebuild(state: State, *, bare: bool, in_one: bool) -> Checkpoint:
    """The checkpoint that the edits make of `state.source`; `bare` and `in_one` are passed on to `rebuild_tree`."""
    checkpoint, tensors = state.source, dict(state.tensors)
    moved = {olds[0]: new for new in tensors if len(olds := state.origins[new]) == 1}
    findings = [*checkpoint.findings, *state.findings, *_broken_ties(checkpoint, tensors, moved)]
    notes = _renamed_notes(state)
    if notes.arch is None and checkpoint.notes.arch is not None:
        message = "the note of its architecture is dropped: its tensors are others now; --arch gives it one"
        findings.append(Finding("arch-note", "info", "", message))
    root = rebuild_tree(checkpoint, tensors.keys(), moved, bare=bare, in_one=in_one)
    return checkpoint.replaced(
        tensors=tensors, extras=state.extras, composites=dict(state.composites), root=root, notes=notes,
        findings=tuple(findings),
    )  # fmt: skip


def _renamed_notes(state: State) -> Notes:
    """The notes under the new names.

    Notes about bytes are kept only for tensors that no edit has touched; the architecture's note only if no name or
    shape has changed.
    """
    notes, source, extras = state.source.notes, state.source, state.extras
    first_origin = {new: olds[0] for new in state.tensors if (olds := state.origins[new])}
    untouched = {new: old for new, old in first_origin.items() if state.tensors[new] is source.get(old)}
    untouched |= {name: name for name, tensor in extras.items() if tensor is source.extras[name]}
    first_origin |= {name: name for name in extras}
    new_name = {old: new for new, old in reversed(untouched.items())}
    quantized = [weight.renamed(new_name) for weight in notes.quantized]
    return replace(
        notes,
        arch=notes.arch if shapes_of(state.tensors) == shapes_of(source) else None,
        tensors={new: notes.tensors[old] for new, old in first_origin.items() if old in notes.tensors},
        strides={new: notes.strides[old] for new, old in untouched.items() if old in notes.strides},
        attributes={new: notes.attributes[old] for new, old in first_origin.items() if old in notes.attributes},
        quantized=tuple(weight for weight in quantized if weight is not None),
        between=tuple(new_name[name] for name in notes.between if name in new_name),
        digest=None,
    )


def _broken_ties(
    checkpoint: Checkpoint, tensors: Mapping[str, LazyTensor], moved: Mapping[str, str]
) -> Iterator[Finding]:
    """Warnings for tied names of which edits have changed only some."""
    for group in checkpoint.ties:
        new_names = [moved[name] for name in group if name in moved]
        if len({tensors[name].alias for name in new_names}) > 1:
            message = f"{' and '.join(new_names)} shared one tensor, but no longer do"
            yield Finding("tie-broken", "warning", new_names[0], message, " = ".join(group))
