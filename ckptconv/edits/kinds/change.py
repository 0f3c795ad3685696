"""An edit being made: the tensors before it, and its details, checked against bounds."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.expand import listed
from ckptconv.edits.kinds.table import KINDS
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptconv.core.edit import Edit, Step
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor


@dataclass(frozen=True, slots=True)
class Change:
    """One edit to `tensors`. Errors call it `label`."""

    tensors: Mapping[str, LazyTensor]
    edit: Edit
    label: str

    @property
    def details(self) -> Mapping[str, Json]:
        """The edit's details."""
        return self.edit.details

    def fail(self, problem: str, names: Iterable[str] = (), hint: str | None = None) -> EditError:
        """The error for a problem with these names; the hint is the kind's own unless given."""
        return EditError(f"{self.label}: {problem}", hint=hint or KINDS[self.edit.kind].hint, details=listed(names))

    def sources(self, step: Step) -> list[LazyTensor]:
        """The source tensors of a step."""
        return [self.tensors[name] for name in step.sources]

    def source(self, step: Step) -> LazyTensor:
        """The source tensor of a step that has one."""
        return self.tensors[step.sources[0]]

    def alias(self, tensors: Sequence[LazyTensor], *how: object) -> object:
        """An alias that is equal for tied tensors that are changed in the same way: these stay tied."""
        known = [tensor.alias for tensor in tensors]
        return None if None in known else (self.edit.kind, *known, how)

    def integers(self, key: str) -> tuple[int, ...]:
        """A detail that is a list of sizes; -1 stands for a size to be computed."""
        value = self.details.get(key)
        if not isinstance(value, list) or not all(type(item) is int and item >= -1 for item in value):
            raise self.fail(f"it needs {key!r}, a list of sizes")
        return tuple(item for item in value if isinstance(item, int))

    def shape(self, numel: int, step: Step) -> tuple[int, ...]:
        """The detail ``shape`` for a tensor of `numel` elements; one size may be -1 and is computed."""
        shape = self.integers("shape")
        known = prod(n for n in shape if n >= 0)
        if shape.count(-1) == 1 and known and numel % known == 0:
            return tuple(numel // known if n < 0 else n for n in shape)
        if -1 in shape or known != numel:
            raise self.fail(f"{numel} elements are not what {list(shape)} has", step.sources)
        return shape

    def axes(self, dimensions: int, step: Step) -> tuple[int, ...]:
        """The detail ``axes``: a permutation of so many dimensions."""
        axes = self.integers("axes")
        if sorted(axes) != list(range(dimensions)):
            raise self.fail(f"{list(axes)} permutes no shape of {dimensions} dimensions", step.sources)
        return axes

    def axis(self, dimensions: int) -> int:
        """The detail ``axis``: one of so many dimensions; 0 if not given."""
        axis = self.details.get("axis", 0)
        if type(axis) is not int or not 0 <= axis < dimensions:
            raise self.fail(f"there is no dimension {axis} in a shape of {dimensions}")
        return axis

    def blocks(self, step: Step, lengths: Sequence[int]) -> int:
        """The detail ``blocks``: into how many pieces each part is divided; 1, or as many as an interleaved qkv has
        heads. All `lengths` must be multiples.
        """
        blocks = self.details.get("blocks", 1)
        if type(blocks) is not int or blocks < 1 or any(length % blocks for length in lengths):
            raise self.fail(f"{lengths[0]} is not made of {blocks} blocks of equal length", step.sources)
        return blocks
