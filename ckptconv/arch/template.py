"""Names with placeholders: ``"layers.{layer}.weight"``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.arch.evaluate import Formula


@dataclass(frozen=True, slots=True)
class Template:
    """A tensor's name with its placeholders: text and formulas, in order."""

    text: str
    parts: tuple[str | Formula, ...]

    @property
    def formulas(self) -> tuple[Formula, ...]:
        """The placeholders."""
        return tuple(part for part in self.parts if not isinstance(part, str))
