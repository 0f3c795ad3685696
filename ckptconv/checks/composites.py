"""Compares how the quantized and sparse tensors of two checkpoints are made of their parts. The parts themselves are
compared as tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.composite import VALUES, renamed
from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint

CODE = "composite-changed"


def compare_composites(a: Checkpoint, b: Checkpoint, names: Mapping[str, str]) -> list[Finding]:
    """A finding for each composite that is on one side only, or is made differently.

    names: maps the names of tensors in `a` to those in `b`. Composites are matched by their values.
    """
    unmatched = {other.parts[VALUES]: (name, other) for name, other in b.composites.items()}
    findings = []
    for name, composite in a.composites.items():
        expected = renamed(composite, names)
        _, other = unmatched.pop(expected.parts[VALUES], (name, None))
        if other is None and expected.parts[VALUES] not in b.all_tensors:
            continue  # its values were removed, which is reported for these
        if other is None or expected.to_dict() != other.to_dict():
            after = "parts that are tensors of their own" if other is None else other.summary
            if after == composite.summary:
                after = f"{after}, of other parts"
            findings.append(_change_finding(name, composite.summary, after))
    kept = set(names.values())
    for name, other in unmatched.values():
        if other.parts[VALUES] in kept:
            findings.append(_change_finding(name, "parts that were tensors of their own", other.summary))
    return findings


def _change_finding(name: str, before: str, after: str) -> Finding:
    return Finding(CODE, "error", name, f"{name}: {before} → {after}", before, after)
