"""A naming rule as the user gives it. This module imports none of the code that carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GGUF, MLX = "gguf", "mlx"
"""The dialects of llama.cpp and mlx-lm, whose files say which program they are for."""

TO_GGUF = "to-gguf"
TO_MMPROJ = "to-mmproj"
TO_LDM = "to-ldm"
"""Dialects that translate from the names of transformers and diffusers to others."""


@dataclass(frozen=True, slots=True)
class NameRule:
    """One of ``--strip-prefix``, ``--add-prefix``, ``--rename``, ``--translate`` and ``--like``, with its text."""

    how: Literal["strip-prefix", "add-prefix", "rename", "translate", "like"]
    text: str
