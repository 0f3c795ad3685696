"""Dialects that names alone show, in any format. Apart from `edits.translate`, which imports all dialects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.dialects import ldm, meta, whisper

if TYPE_CHECKING:
    from collections.abc import Collection

_DIALECTS = {"ldm": ldm, "whisper": whisper, "meta": meta}


def dialect_by_names(names: Collection[str]) -> str:
    """The dialect that can be recognised by names alone, in any format; "" if there is none."""
    return next((name for name, dialect in _DIALECTS.items() if dialect.known(names)), "")
