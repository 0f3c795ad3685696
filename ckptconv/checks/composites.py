"""Quantized and sparse tensors of two checkpoints compared: not their parts, which are tensors, but how these belong
together.
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
    """A finding for each that is in one alone, or is another kind there; `names` are those of a's tensors in b.

    The whole goes by the names of its parts: a change of these is told of them.
    """
    theirs = {one.parts[VALUES]: (name, one) for name, one in b.composites.items()}
    found = []
    for name, one in a.composites.items():
        here = renamed(one, names)
        other_name, other = theirs.pop(here.parts[VALUES], (name, None))
        if other is None and here.parts[VALUES] not in b.all_tensors:
            continue  # removed with its values, which is told of these
        if other is None or here.to_dict() != other.to_dict():
            after = "parts that are tensors of their own" if other is None else other.summary
            found.append(_changed(name, one.summary, after if after != one.summary else f"{after}, of other parts"))
    back = set(names.values())
    for other_name, other in theirs.values():
        if other.parts[VALUES] in back:
            found.append(_changed(other_name, "parts that were tensors of their own", other.summary))
    return found


def _changed(name: str, one: str, other: str) -> Finding:
    return Finding(CODE, "error", name, f"{name}: {one} → {other}", one, other)
