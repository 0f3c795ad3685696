"""What `explain` finds: the edits that were made, and what is left to compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.edit import Edit
    from ckptconv.core.tensor import LazyTensor


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two views of one shape whose values are to be compared, and the names of the tensors that they are of."""

    a_name: str
    b_name: str
    a: LazyTensor
    b: LazyTensor


@dataclass(frozen=True, slots=True)
class Explanation:
    """The edits, one after another: each speaks of the names that those before it leave.

    names:          what tensors of the one are called in the other, where one is one.
    comparisons:    what is left to compare; tensors of unlike shapes are in `unlike` instead.
    removed, added: names without a partner, in order, but for those of whole layers that edits tell of.
    """

    edits: list[Edit] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    unlike: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
