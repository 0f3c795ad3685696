"""The rows of ``convert --dry-run``: where each tensor comes from, what becomes of it, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.api.editing.edits import Moves
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.spelling import Json


@dataclass(frozen=True, slots=True)
class Move:
    """One row of the plan.

    sources: the names in the source that the tensor is made of.
    target:  its new name; None for a tensor that is left out, whose type and shape are those in the source.
    file:    the file that it goes into; None if it is left out.
    merged:  the adapters that change it; if it has no sources, the adapters that it comes from.
    """

    sources: tuple[str, ...]
    target: str | None
    dtype: str
    shape: tuple[int, ...]
    file: str | None
    merged: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Json]:
        """The row as ``convert --dry-run --json`` prints it."""
        row: dict[str, Json] = {
            "sources": list(self.sources), "target": self.target, "dtype": self.dtype, "shape": list(self.shape),
            "file": self.file,
        }  # fmt: skip
        return row | ({"merged": list(self.merged)} if self.merged else {})


def plan_moves(source: Checkpoint, checkpoint: Checkpoint, moves: Moves, file: Callable[[str], str]) -> list[Move]:
    """A row for every tensor of the model, in the target's order; then a row for each that is left out."""
    kept = [
        Move(
            sources=moves.origins.get(name, (name,)),
            target=name,
            dtype=tensor.info.dtype.name,
            shape=tensor.info.shape,
            file=file(name),
            merged=moves.merged.get(name, ()),
        )
        for name, tensor in checkpoint.items()
    ]
    used = {name for move in kept for name in move.sources}
    left_out = [
        Move(sources=(name,), target=None, dtype=tensor.info.dtype.name, shape=tensor.info.shape, file=None)
        for name, tensor in source.items()
        if name not in used
    ]
    return [*kept, *left_out]
