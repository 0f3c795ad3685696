"""What `convert --dry-run` says of every tensor: where it comes from, what becomes of it and where it goes."""

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
    """One row of the plan: the names a tensor comes from, its new name, type and shape, and the file that it goes to.

    A tensor that is left out has no target and no file; its type and shape are those that it had. merged: the adapters
    that change it, or that it is of, where it has no source.
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


def plan_of(source: Checkpoint, checkpoint: Checkpoint, moves: Moves, file: Callable[[str], str]) -> list[Move]:
    """What becomes of every tensor of the model, in the target's order; then those that are left out."""
    origins, merged = moves.origins, moves.merged
    made = [
        Move(
            origins.get(name, (name,)),
            name,
            tensor.info.dtype.name,
            tensor.info.shape,
            file(name),
            merged.get(name, ()),
        )
        for name, tensor in checkpoint.items()
    ]
    used = {name for move in made for name in move.sources}
    gone = [
        Move((name,), None, tensor.info.dtype.name, tensor.info.shape, None)
        for name, tensor in source.items()
        if name not in used
    ]
    return [*made, *gone]
