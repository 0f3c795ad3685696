"""Findings: one result type for losses, validate, diff and verify."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["error", "warning", "info"]

UNREADABLE = "unreadable-tensor"
"""The code of a reader's finding that a tensor's values cannot be read, so that writing the checkpoint loses them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    code:     a stable, lower-case word (``"tie"``, ``"shape-mismatch"``), whose spelling never changes.
    where:    the tensor, metadata path or file that it is about; "" for the whole checkpoint.
    message:  one line for the user.
    expected: what should be there; None if the code says it all.
    found:    what is there.
    hint:     what would fix it, ready to be pasted; None if unknown.
    """

    code: str
    severity: Severity
    where: str
    message: str
    expected: str | None = None
    found: str | None = None
    hint: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """The finding as JSON output has it."""
        document = {
            "code": self.code,
            "severity": self.severity,
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "message": self.message,
        }
        return document if self.hint is None else {**document, "hint": self.hint}


def errors_among(findings: Iterable[Finding]) -> list[Finding]:
    """The findings of severity error: what is wrong, different or lost, depending on the check."""
    return [finding for finding in findings if finding.severity == "error"]


_ALIKE = 3
"""The most findings that differ only in `where` and are listed one by one."""


def summed_up(findings: Iterable[Finding]) -> list[Finding]:
    """Findings for people: of many that differ only in `where`, the first is kept and says how many more there are."""
    kinds: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        message = finding.message.replace(finding.where, "", 1) if finding.where else finding.message
        kinds.setdefault((finding.code, finding.severity, message), []).append(finding)
    return [
        finding
        for alike in kinds.values()
        for finding in (alike if len(alike) <= _ALIKE else [_with_others(alike[0], len(alike) - 1)])
    ]


def _with_others(first: Finding, more: int) -> Finding:
    return replace(first, message=f"{first.message} (and {more:,} more like it)")


def unreadable(name: str, kind: str) -> Finding:
    """The finding for a tensor of a kind that cannot be read."""
    return Finding(UNREADABLE, "warning", name, f"the tensor {name!r} is {kind} and cannot be read")
