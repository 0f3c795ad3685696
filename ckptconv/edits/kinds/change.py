"""An edit on its way: the tensors before it, and what it says, within bounds."""

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
    """One edit to `tensors`; `label` is what errors call it."""

    tensors: Mapping[str, LazyTensor]
    edit: Edit
    label: str

    @property
    def details(self) -> Mapping[str, Json]:
        """What the edit says besides names."""
        return self.edit.details

    def fail(self, problem: str, names: Iterable[str] = (), hint: str | None = None) -> EditError:
        """The error for what cannot be done to these names."""
        return EditError(f"{self.label}: {problem}", hint=hint or KINDS[self.edit.kind].hint, details=listed(names))

    def sources(self, step: Step) -> list[LazyTensor]:
        """The tensors of a step."""
        return [self.tensors[name] for name in step.sources]

    def source(self, step: Step) -> LazyTensor:
        """The tensor of a step that has one."""
        return self.tensors[step.sources[0]]

    def alias(self, tensors: Sequence[LazyTensor], *how: object) -> object:
        """What tied tensors that are changed alike go on sharing."""
        known = [tensor.alias for tensor in tensors]
        return None if None in known else (self.edit.kind, *known, how)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of sizes, of which -1 is one that is to be worked out."""
        value = self.details.get(key)
        if not isinstance(value, list) or not all(type(item) is int and item >= -1 for item in value):
            raise self.fail(f"it needs {key!r}, a list of sizes")
        return tuple(item for item in value if isinstance(item, int))

    def shape(self, numel: int, step: Step) -> tuple[int, ...]:
        """The shape that so many elements get, with its -1, if it has one, worked out."""
        shape = self.integers("shape")
        known = prod(n for n in shape if n >= 0)
        if shape.count(-1) == 1 and known and numel % known == 0:
            return tuple(numel // known if n < 0 else n for n in shape)
        if -1 in shape or known != numel:
            raise self.fail(f"{numel} elements are not what {list(shape)} has", step.sources)
        return shape

    def axes(self, dimensions: int, step: Step) -> tuple[int, ...]:
        """An order of the dimensions of a shape."""
        axes = self.integers("axes")
        if sorted(axes) != list(range(dimensions)):
            raise self.fail(f"{list(axes)} permutes no shape of {dimensions} dimensions", step.sources)
        return axes

    def axis(self, dimensions: int) -> int:
        """One dimension of a shape."""
        axis = self.details.get("axis", 0)
        if type(axis) is not int or not 0 <= axis < dimensions:
            raise self.fail(f"there is no dimension {axis} in a shape of {dimensions}")
        return axis

    def blocks(self, step: Step, lengths: Sequence[int]) -> int:
        """In how many places a part lies in the whole: once, or once in every head of an interleaved q, k and v."""
        blocks = self.details.get("blocks", 1)
        if type(blocks) is not int or blocks < 1 or any(length % blocks for length in lengths):
            raise self.fail(f"{lengths[0]} is not made of {blocks} blocks of equal length", step.sources)
        return blocks
