"""The result of comparing a checkpoint with an architecture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.report import errors_among

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.arch.spec import ParamValue
    from ckptconv.arch.table import Table
    from ckptconv.core.report import Finding


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings, the params that were bound, where each came from, and the table that they give, if any."""

    findings: list[Finding]
    params: Mapping[str, ParamValue] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    table: Table | None = None

    @property
    def valid(self) -> bool:
        """Whether no finding is an error."""
        return not errors_among(self.findings)
