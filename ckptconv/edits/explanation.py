"""What `explain` finds: the edits that were made, and what is left to compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.edit import Edit
    from ckptconv.core.tensor import LazyTensor


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two views of the same shape whose values are to be compared, and the names of the tensors they belong to."""

    a_name: str
    b_name: str
    a: LazyTensor
    b: LazyTensor


@dataclass(frozen=True, slots=True)
class Explanation:
    """How set a became set b.

    edits:          to be made one after another: each uses the names that the edits before it leave.
    names:          name in a → name in b, for tensors with a partner.
    comparisons:    what is left to compare.
    unlike:         partners (name in a, name in b) whose shapes do not fit, so that nothing can be compared.
    removed, added: names without a partner, in order; layers that the edits remove or insert are not among them.
    """

    edits: list[Edit] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    unlike: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
