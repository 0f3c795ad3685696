"""The errors of a checkpoint that contradicts itself."""

from __future__ import annotations

from ckptconv.errors import CorruptFileError, LimitError

COPY_AGAIN = "copy the checkpoint again from where it came, all of its files"


def bad(what: str) -> CorruptFileError:
    """The error for bytes that contradict the format."""
    return CorruptFileError(f"the checkpoint is damaged: {what}", hint=COPY_AGAIN)


def too_much(what: str) -> LimitError:
    """The error for a number that no honest checkpoint needs."""
    return LimitError(what, hint="do not trust it")
