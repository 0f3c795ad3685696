"""The errors for damaged and for excessive checkpoints."""

from __future__ import annotations

from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, LimitError


def bad(what: str) -> CorruptFileError:
    """The error for bytes that contradict the format."""
    return CorruptFileError(f"the checkpoint is damaged: {what}", hint=COPY_ALL_AGAIN)


def too_empty(what: str) -> LimitError:
    """The error for more data than the size of a checkpoint suggests, unless it holds little but zeros."""
    return LimitError(what, hint="load it with Orbax if it is known to hold little but zeros; else do not trust it")


def too_much(what: str) -> LimitError:
    """The error for a number that no honest checkpoint needs."""
    return LimitError(what)
