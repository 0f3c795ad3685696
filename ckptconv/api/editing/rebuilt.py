"""The checkpoint around tensors that edits have made: its metadata as it was, bookkeeping under the new names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.edits.tree import rooted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.api.editing.state import State
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.notes import Notes
    from ckptconv.core.tensor import LazyTensor


def rebuilt(state: State, *, bare: bool, in_one: bool) -> Checkpoint:
    """The checkpoint that the edits make of `state.source`; `bare` and `in_one` as `rooted` has them."""
    checkpoint, tensors = state.source, state.tensors
    moved = {olds[0]: new for new, olds in state.origins.items() if len(olds) == 1}
    findings = [*checkpoint.findings, *state.told, *_broken_ties(checkpoint, tensors, moved)]
    notes = _notes(state)
    if notes.arch is None and checkpoint.notes.arch is not None:
        message = "the note of its architecture is dropped: its tensors are others now; --arch gives it one"
        findings.append(Finding("arch-note", "info", "", message))
    return checkpoint.replaced(
        tensors=tensors, extras=state.extras, composites=state.composites,
        root=rooted(checkpoint, tensors.keys(), moved, bare=bare, in_one=in_one), notes=notes, findings=tuple(findings),
    )  # fmt: skip


def _notes(state: State) -> Notes:
    """Bookkeeping under the new names. What speaks of bytes stays with tensors that no edit has touched; the note of an
    architecture where names and shapes are still the same.
    """
    notes, source, extras = state.source.notes, state.source, state.extras
    firsts = {new: olds[0] for new, olds in state.origins.items() if olds}
    same = {new: old for new, old in firsts.items() if state.tensors[new] is source.get(old)}
    same |= {name: name for name, tensor in extras.items() if tensor is source.extras[name]}
    firsts |= {name: name for name in extras}
    now = {old: new for new, old in reversed(same.items())}
    quantized = [one.renamed(now) for one in notes.quantized]
    return replace(
        notes,
        arch=notes.arch if _shapes(state.tensors) == _shapes(source) else None,
        tensors={new: notes.tensors[old] for new, old in firsts.items() if old in notes.tensors},
        strides={new: notes.strides[old] for new, old in same.items() if old in notes.strides},
        attributes={new: notes.attributes[old] for new, old in firsts.items() if old in notes.attributes},
        quantized=tuple(one for one in quantized if one is not None),
        between=tuple(now[name] for name in notes.between if name in now),
        digest=None,
    )


def _shapes(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.info.shape for name, tensor in tensors.items()}


def _broken_ties(
    checkpoint: Checkpoint, tensors: Mapping[str, LazyTensor], moved: Mapping[str, str]
) -> Iterator[Finding]:
    """A warning for names that shared one tensor, of which an edit has changed some alone."""
    for group in checkpoint.ties:
        left = [moved[name] for name in group if name in moved]
        if len({tensors[name].alias for name in left}) > 1:
            message = f"{' and '.join(left)} shared one tensor, but no longer do"
            yield Finding("tie-broken", "warning", left[0], message, " = ".join(group))
