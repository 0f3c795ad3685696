"""A model of transformers' on its way into a GGUF: metadata and tensors that its tensors alone do not say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import StateDict
from ckptconv.core.notes import Notes
from ckptconv.edits.name_rule import TO_GGUF, TO_MMPROJ
from ckptconv.edits.types import asked_mixture
from ckptconv.errors import UsageError
from ckptconv.formats.gguf.filetype import FILE_TYPE_KEY
from ckptconv.formats.gguf.hub.mmproj import mmproj_of
from ckptconv.formats.gguf.hub.model import made_of
from ckptconv.formats.gguf.metadata import SOURCE
from ckptconv.io.folder import Folder

if TYPE_CHECKING:
    from ckptconv.api.edits import Moves
    from ckptconv.api.prepare import Order
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.base import Format


_MAKERS = {TO_GGUF: made_of, TO_MMPROJ: mmproj_of}


def check_target(wanted: Format, dialect: str) -> None:
    """Raise UsageError where a model of llama.cpp's would go into another format than its own."""
    if wanted.dialect != SOURCE:
        raise UsageError(
            f"--translate {dialect} makes a GGUF with its metadata, and the target is {wanted.name}",
            hint="name a target that ends in .gguf",
        )


def completed(checkpoint: Checkpoint, moves: Moves, order: Order) -> tuple[Checkpoint, Moves, dict[str, MetaNode]]:
    """The checkpoint with what llama.cpp wants of it, whose tensors are translated and of the types that were asked
    for, and that metadata alone: what the source says besides stays, unless it is to be bare. Raises CkptconvError.
    """
    path, said = Path(order.request.source), order.metadata
    with Folder(path if path.is_dir() else path.parent) as folder:
        made = _MAKERS[order.edits.for_llama_cpp](folder, checkpoint, said)
    values: dict[str, MetaNode] = {key: value for key, (_, value) in made.entries.items()}
    if (mixture := asked_mixture(order.edits.dtype)) is not None and FILE_TYPE_KEY not in said:
        values[FILE_TYPE_KEY] = mixture.number
    types = {key: kind for key, (kind, _) in made.entries.items()}
    alone = order.bare or (not checkpoint.metadata and not checkpoint.extras)
    whole = Checkpoint(
        made.tensors, extras={} if alone else checkpoint.extras,
        root=StateDict() if alone else checkpoint.root, format=checkpoint.format,
        notes=Notes(source=SOURCE, types=types), findings=(*checkpoint.findings, *made.findings), file=checkpoint.file,
    )  # fmt: skip
    origins = {name: moves.origins.get(made.rows.get(name, name), ()) for name in made.tensors}
    return whole.with_metadata(values), replace(moves, origins=origins), values
