"""Is a checkpoint that does not fit damaged, or of another architecture that is like the one it was compared with?

Families copy each other's names: BEiT has most of ViT's, Qwen3-Next most of Qwen2-MoE's. Damage and a wrong conversion
hit some tensors, or have a cause that explains them all; what every layer has, or has otherwise, is how the network is
built.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptconv.core.report import Finding

LAYERS = 2
"""Tensors of one kind that are in no layer, or in none of the architecture's, for that to be how it is built."""

SHAPES = 3
"""Tensors of one kind that have another shape: two may follow from one change."""

_NUMBER = re.compile(r"\d+")


def kind_of(name: str) -> str:
    """A name without its numbers: ``blocks.*.attn.q_bias``."""
    return _NUMBER.sub("*", name)


def differences(findings: Sequence[Finding], names: Iterable[str]) -> list[str]:
    """The kinds of tensors in which the layers of the checkpoint differ from those of the architecture; none where
    what does not fit may be damage.

    findings: what is left to explain, too. names: those of the checkpoint.
    """
    starts = ["", *(f.found for f in findings if f.code == "prefixed" and isinstance(f.found, str))]
    there = Counter(kind_of(name.removeprefix(start)) for name in names for start in starts)
    counted = Counter((f.code, kind_of(f.where)) for f in findings if f.severity == "error")

    def is_built_so(code: str, kind: str, count: int) -> bool:
        if code == "missing-tensor":
            return count >= LAYERS and kind not in there
        if code == "unexpected-tensor":
            return count >= LAYERS and there[kind] <= count * len(starts)
        return code == "shape-mismatch" and count >= SHAPES

    found = [kind for (code, kind), count in counted.items() if is_built_so(code, kind, count)]
    return list(dict.fromkeys(found))
