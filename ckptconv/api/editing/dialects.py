"""Whether ``--translate`` would have something to do, and what is told where it was not asked for."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ckptconv.api.evidence import merged_values
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of
from ckptconv.edits.name_rule import GGUF, MLX, TO_GGUF
from ckptconv.errors import EditError, LimitError, UnsupportedError, UsageError
from ckptconv.formats import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.api.editing.edits import Edits
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import Format

MOST_TRANSLATED = 20_000
"""Tensors up to which it is found out whether they could be translated."""


def untranslated(checkpoint: Checkpoint, wanted: Format, edits: Edits | None) -> Iterator[Finding]:
    """What is told of tensors that go into another format with names and layouts of their framework's."""
    if (wanted.name == checkpoint.format and not _is_mlxs(checkpoint)) or (edits and edits.names):
        return
    dialect = dialect_of(checkpoint) or _dialect_for(checkpoint, wanted)
    if dialect and dialect == wanted.dialect:
        return  # such as a .keras as the .weights.h5 of it
    if dialect:
        from ckptconv.edits.translate import GIVES

        message = f"names and layouts stay as they are; --translate {dialect} makes {GIVES[dialect]} of them"
        yield Finding("dialect", "info", "", message, hint=f"--translate {dialect}")
    elif _is_mlxs(checkpoint) and (why := _not_undone(checkpoint)):
        yield Finding("dialect", "warning", "", f"names and layouts stay mlx-lm's: {why}")


def _dialect_for(checkpoint: Checkpoint, wanted: Format) -> str:
    """What makes a model of transformers' one of the format that it is written in, "" where nothing does."""
    if wanted.dialect != GGUF:
        return ""
    from ckptconv.edits.adapters.names import PEFT

    if any(name.startswith(PEFT) for name in checkpoint):  # an adapter, whose base is elsewhere
        return TO_GGUF
    return TO_GGUF if _has_changes(TO_GGUF, checkpoint) else ""


def dialect_of(checkpoint: Checkpoint) -> str:
    """What ``--translate`` would take for a checkpoint, "" where it finds nothing to do, or there are too many names
    to find out.
    """
    if _is_mlxs(checkpoint):
        return MLX if _has_changes(MLX, checkpoint) else ""
    with suppress(UsageError):  # of a format that is in no table
        dialect = registry.by_name(checkpoint.format).dialect
        if dialect and _has_changes(dialect, checkpoint):
            return dialect
    return ""


def _is_mlxs(checkpoint: Checkpoint) -> bool:
    """Whether the file says that mlx-lm wrote it, whose names are in no format's passport: it is safetensors."""
    return checkpoint.metadata.get("format") == MLX


def is_in_mlxs_layout(checkpoint: Checkpoint) -> bool:
    """Whether mlx-lm wrote it, and changed more than it has to for quantized weights."""
    if not _is_mlxs(checkpoint):
        return False
    from ckptconv.edits.dialects import mlx

    infos = infos_of(checkpoint)
    return mlx.known(infos, merged_values(checkpoint).get("model_type"))


def _not_undone(checkpoint: Checkpoint) -> str:
    """Why mlx-lm's layouts cannot be undone; "" where they can, or are transformers'."""
    if len(checkpoint) > MOST_TRANSLATED:
        return ""
    from ckptconv.edits.translate import changes_in

    try:
        changes_in(MLX, infos_of(checkpoint), merged_values(checkpoint))
    except UnsupportedError as error:
        return str(error)
    except (EditError, UsageError):
        return ""
    return ""


def _has_changes(dialect: str, checkpoint: Checkpoint) -> bool:
    if len(checkpoint) > MOST_TRANSLATED:
        return False
    from ckptconv.edits.translate import changes_in  # all of them: most formats have none

    with suppress(EditError, LimitError, UnsupportedError, UsageError):
        changes_in(dialect, infos_of(checkpoint), merged_values(checkpoint))
        return True
    return False
