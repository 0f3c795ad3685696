"""A checkpoint's tensors while edits are made of them, and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.apply import apply_edit
from ckptconv.edits.composites import chosen_whole, followed, with_types
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptconv.api.editing.edits import Origins
    from ckptconv.api.editing.lora import Adapters, Lora
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.composite import Composite
    from ckptconv.core.edit import Edit, Step
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor


@dataclass(slots=True)
class State:
    """Tensors on their way.

    source:  the checkpoint that they come from, as it was.
    origins: for each name those of the source that its tensor is made of; merged: the adapters merged into it.
    told:    what is said of the edits.
    """

    source: Checkpoint
    tensors: dict[str, LazyTensor]
    extras: dict[str, LazyTensor]
    composites: dict[str, Composite]
    origins: Origins = field(default_factory=dict)
    merged: Origins = field(default_factory=dict)
    told: list[Finding] = field(default_factory=list)

    @classmethod
    def of(cls, source: Checkpoint, select: Sequence[str], drop: Sequence[str]) -> State:
        """The tensors of the model that these globs leave. Raises EditError for one that matches none."""
        chosen = chosen_whole(list(source), select, drop, source.composites_of(source))
        tensors = {name: source[name] for name in chosen}
        composites = source.composites_of({**tensors, **source.extras})
        return cls(source, tensors, dict(source.extras), composites, {name: (name,) for name in chosen})

    def make(self, edit: Edit, label: str) -> None:
        """One edit. Tensors outside of the state_dict take part where a step names them, and stay where they are."""
        named = {name for step in edit.steps for name in (*step.sources, *step.targets)}
        outside = {name: tensor for name, tensor in self.extras.items() if name in named}
        made, steps = apply_edit({**self.tensors, **outside}, edit, label)
        self.composites = with_types(followed(self.composites, edit, steps, label), {**self.extras, **made})
        if gone := [name for name in outside if name not in made]:
            raise EditError(
                f"{label}: {gone[0]!r} is outside of the state_dict, and stays there under its name",
                hint="edits may read such a tensor: give what they make of it a name of its own, or leave it out",
            )
        self.extras.update({name: made.pop(name) for name in outside})
        self.origins = _followed({**{name: (name,) for name in outside}, **self.origins}, steps, made)
        self.merged = {name: found for name, found in _followed(self.merged, steps, made).items() if found}
        self.tensors = made

    def merge(self, wanted: Lora, adapters: Adapters) -> None:
        """An adapter. Raises as `Adapters.merged`, EditError where a weight is of several tensors."""
        made, found = adapters.merged(wanted, self.tensors)
        parts = {part: name for name, one in self.composites.items() for part in one.parts.values()}
        if torn := [parts[name] for name in made.touched if name in parts]:
            one = self.composites[torn[0]]
            raise EditError(
                f"{wanted.label}: {torn[0]!r} is {one.summary}", hint="--dequantize turns it into floats first"
            )
        self.tensors = made.tensors
        self.origins |= dict.fromkeys(made.added, ())
        self.merged |= {name: (*self.merged.get(name, ()), wanted.text) for name in made.touched}
        self.told += found


def _followed(before: Origins, steps: Sequence[Step], names: Iterable[str]) -> Origins:
    """What was said of sources, of the targets that were made of them."""
    come = {
        target: tuple(dict.fromkeys(old for name in step.sources for old in before.get(name, ())))
        for step in steps
        for target in step.targets
    }
    return {name: come.get(name) or before.get(name, ()) for name in names}
