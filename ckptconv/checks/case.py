"""The state of an explanation: findings that are still unexplained, and the causes found so far."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.match import Shape

if TYPE_CHECKING:
    from ckptconv.core.report import Finding

Found = Mapping[str, tuple[int, ...]]
"""The shapes in a checkpoint, by name."""

Fits = Callable[[Shape, tuple[int, ...]], bool]
"""Whether a tensor of the second shape loads where the first is expected."""


@dataclass(slots=True)
class Case:
    """The findings that are still to be explained, and the causes found so far.

    found: the checkpoint's shapes by name. Tensors that turn out to be renamed and transposed are added under the names
           that they should have.
    names: the checkpoint's names as they are.
    """

    findings: list[Finding]
    expected: Mapping[str, Shape]
    found: Found
    fits: Fits
    causes: list[Finding] = field(default_factory=list)
    names: Collection[str] = ()

    def __post_init__(self) -> None:
        self.names = self.found

    def tensors_with(self, code: str) -> list[str]:
        """The tensors that findings of this code are about and whose shape is known."""
        shapes = self.found if code == "unexpected-tensor" else self.expected
        return [finding.where for finding in self.findings if finding.code == code and finding.where in shapes]

    def remove(self, code: str, names: Collection[str]) -> None:
        """Remove the findings of this code about these tensors, which a cause has explained."""
        self.findings = [finding for finding in self.findings if finding.code != code or finding.where not in names]
