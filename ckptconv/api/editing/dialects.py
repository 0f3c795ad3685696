"""Whether ``--translate`` would have something to do, and what to report if it was not asked for."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ckptconv.api.evidence import merged_values
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of
from ckptconv.edits.name_rule import GGUF, MLX, TO_GGUF, TO_LDM
from ckptconv.errors import EditError, LimitError, UnsupportedError, UsageError
from ckptconv.formats import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.api.editing.edits import Edits
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import Format

MARK = "format"
"""The key of metadata in which a safetensors file says whose it is."""

_OF_TEMPLATES = {"flax": "Flax", "keras": "Keras"}
"""Dialects to which only a file of the same model leads (``--like``), and whose they are."""

MAX_TENSORS = 20_000
"""With more tensors than this, nobody tries whether they could be translated."""


def untranslated_findings(checkpoint: Checkpoint, wanted: Format, edits: Edits | None) -> Iterator[Finding]:
    """What to report about tensors that keep their framework's names and layouts in another format."""
    if (wanted.name == checkpoint.format and not is_from_mlx_lm(checkpoint)) or (edits and edits.names):
        return
    dialect = dialect_of(checkpoint) or _dialect_towards(checkpoint, wanted)
    if dialect and dialect == wanted.dialect:
        return  # the target has the same dialect, such as .weights.h5 for a .keras
    if dialect:
        from ckptconv.edits.translate import GIVES

        message = f"names and layouts stay as they are; --translate {dialect} makes {GIVES[dialect]} of them"
        if dialect == GGUF:
            message += ", and of the metadata, in a folder (DST/), the files that transformers loads"
        if framework := _OF_TEMPLATES.get(wanted.dialect):
            message += f", and --like FILE {framework}'s of these"
        yield Finding("dialect", "info", "", message, hint=f"--translate {dialect}")
    elif is_from_mlx_lm(checkpoint) and (why := _why_mlx_lm_stays(checkpoint)):
        yield Finding("dialect", "warning", "", f"names and layouts stay mlx-lm's: {why}")
    elif wanted.dialect in _OF_TEMPLATES and any(name.endswith(".weight") for name in checkpoint):
        message = (
            f"names and layouts stay torch's; --like FILE gives them those of {_OF_TEMPLATES[wanted.dialect]}, where "
            "FILE is of the same model"
        )
        yield Finding("dialect", "info", "", message, hint="--like FILE")


def _dialect_towards(checkpoint: Checkpoint, wanted: Format) -> str:
    """The dialect that turns a transformers model into one of the target's format; "" if none does."""
    if wanted.dialect != GGUF:
        return ""
    from ckptconv.edits.adapters.names import PEFT

    is_adapter = any(name.startswith(PEFT) for name in checkpoint)  # its base, which decides, is elsewhere
    return TO_GGUF if is_adapter or _can_translate(TO_GGUF, checkpoint) else ""


def dialect_of(checkpoint: Checkpoint) -> str:
    """The dialect that ``--translate`` would take; "" if it has nothing to do, or there are too many names to try."""
    if is_from_mlx_lm(checkpoint):
        return MLX if _can_translate(MLX, checkpoint) else ""
    with suppress(UsageError):  # the format is not registered
        dialect = registry.by_name(checkpoint.format).dialect
        if dialect and _can_translate(dialect, checkpoint):
            return dialect
    return ""


def dialect_of_names(checkpoint: Checkpoint) -> str:
    """The dialect that leads to torch's names: its format's, or one that the names alone show; "" if none does."""
    dialect = dialect_of(checkpoint)
    if dialect not in ("", TO_LDM):
        return dialect
    from ckptconv.edits.dialects.by_names import dialect_by_names

    return dialect_by_names(checkpoint)


def is_from_mlx_lm(checkpoint: Checkpoint) -> bool:
    """Whether the file says that mlx-lm wrote it. Its format is safetensors, which has no dialect of its own."""
    return checkpoint.metadata.get(MARK) == MLX


def has_mlx_lm_layout(checkpoint: Checkpoint) -> bool:
    """Whether mlx-lm wrote it, and changed more than quantizing requires."""
    if not is_from_mlx_lm(checkpoint):
        return False
    from ckptconv.edits.dialects import mlx

    infos = infos_of(checkpoint)
    return mlx.known(infos, merged_values(checkpoint).get("model_type"))


def _why_mlx_lm_stays(checkpoint: Checkpoint) -> str:
    """Why mlx-lm's layouts cannot be undone; "" if they can, or if they are transformers' already."""
    if len(checkpoint) > MAX_TENSORS:
        return ""
    from ckptconv.edits.translate import changes_in

    try:
        changes_in(MLX, infos_of(checkpoint), merged_values(checkpoint))
    except UnsupportedError as error:
        return str(error)
    except (EditError, UsageError):
        return ""
    return ""


def _can_translate(dialect: str, checkpoint: Checkpoint) -> bool:
    if len(checkpoint) > MAX_TENSORS:
        return False
    from ckptconv.edits.translate import changes_in  # imports every dialect, and most formats have none

    with suppress(EditError, LimitError, UnsupportedError, UsageError):
        changes_in(dialect, infos_of(checkpoint), merged_values(checkpoint))
        return True
    return False
