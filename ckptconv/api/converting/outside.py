"""Selects tensors outside of the model as a model, such as the moving average in a trainer's checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import StateDict, TensorRef, walk
from ckptconv.core.report import Finding
from ckptconv.core.text import plural
from ckptconv.edits.select import matching, matching_some
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode

STATE_DICT = "state_dict"


def select_as_model(checkpoint: Checkpoint, select: Sequence[str]) -> Checkpoint:
    """The checkpoint with the extras that the globs match as its model, and no other tensors; unchanged if no glob
    matches extras only. Reads no tensor.

    Plain metadata stays. Metadata that holds other tensors goes with them, such as an optimizer's settings with its
    state. Raises EditError if some globs match extras only, and others do not.
    """
    outside = [glob for glob in select if not matching(glob, checkpoint) and matching(glob, checkpoint.extras)]
    if not outside:
        return checkpoint
    for glob in select:
        if glob not in outside:
            matching_some(glob, list(checkpoint), "--select")
            raise EditError(
                f"--select {outside[0]!r} matches tensors outside of the model alone, and {glob!r} the model's",
                hint="convert them one after another, into two files",
            )  # fmt: skip
    chosen = {name for glob in select for name in matching(glob, checkpoint.extras)}
    tensors = {name: tensor for name, tensor in checkpoint.extras.items() if name in chosen}
    left_out = len(checkpoint.all_tensors) - len(tensors)
    count = plural(len(tensors), "tensor outside of the model is", "tensors outside of the model are")
    message = f"{count} taken as the model; {left_out:,} others are left out"
    return checkpoint.replaced(
        tensors=tensors, extras={}, composites=checkpoint.composites_of(tensors), root=_plain_root(checkpoint),
        notes=replace(checkpoint.notes.only(tensors), arch=None, digest=None),
        findings=(*checkpoint.findings, Finding("outside", "info", next(iter(tensors)), message)),
    )  # fmt: skip


def _plain_root(checkpoint: Checkpoint) -> MetaNode:
    if not isinstance(checkpoint.root, dict):
        return StateDict()
    plain = {key: node for key, node in checkpoint.metadata.items() if not _holds_tensors(node) and key != STATE_DICT}
    return {**plain, STATE_DICT: StateDict()} if plain else StateDict()


def _holds_tensors(node: MetaNode) -> bool:
    return any(isinstance(part, TensorRef) for _, part in walk(node))
