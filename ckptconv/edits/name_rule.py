"""A naming rule as people ask for it. Nothing that it stands for is imported for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GGUF, MLX = "gguf", "mlx"
"""Dialects of llama.cpp's files and of mlx-lm's, which say themselves whose they are."""

TO_GGUF = "to-gguf"
TO_MMPROJ = "to-mmproj"
TO_LDM = "to-ldm"
"""Dialects that go from the names of transformers and diffusers to others."""


@dataclass(frozen=True, slots=True)
class NameRule:
    """One of ``--strip-prefix``, ``--add-prefix``, ``--rename`` and ``--translate``, with its text."""

    how: Literal["strip-prefix", "add-prefix", "rename", "translate"]
    text: str
