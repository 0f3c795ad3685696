"""A checkpoint's tensors between edits, and where each of them comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.apply import apply_edit
from ckptconv.edits.composites import composites_after, select_whole, with_current_types
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
    """The tensors after the edits so far.

    source:   the checkpoint that they come from, unchanged.
    origins:  for each name, the names in the source that its tensor is made of.
    merged:   for each name, the adapters that were merged into its tensor.
    findings: what to report about the edits.
    """

    source: Checkpoint
    tensors: dict[str, LazyTensor]
    extras: dict[str, LazyTensor]
    composites: dict[str, Composite]
    origins: Origins = field(default_factory=dict)
    merged: Origins = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @classmethod
    def of(cls, source: Checkpoint, select: Sequence[str], drop: Sequence[str]) -> State:
        """The model's tensors that these globs select. Raises EditError for a glob that matches none."""
        chosen = select_whole(list(source), select, drop, source.composites_of(source))
        tensors = {name: source[name] for name in chosen}
        composites = source.composites_of({**tensors, **source.extras})
        return cls(source, tensors, dict(source.extras), composites, {name: (name,) for name in chosen})

    def apply(self, edit: Edit, label: str) -> None:
        """Apply one edit. Extras take part if a step names them; they cannot be renamed or dropped."""
        named = {name for step in edit.steps for name in (*step.sources, *step.targets)}
        named_extras = {name: tensor for name, tensor in self.extras.items() if name in named}
        made, steps = apply_edit({**self.tensors, **named_extras}, edit, label)
        composites = composites_after(self.composites, edit, steps, label)
        self.composites = with_current_types(composites, {**self.extras, **made})
        if gone := [name for name in named_extras if name not in made]:
            raise EditError(
                f"{label}: {gone[0]!r} is outside of the state_dict, and stays there under its name",
                hint="edits may read such a tensor: give what they make of it a name of its own, or leave it out",
            )
        self.extras.update({name: made.pop(name) for name in named_extras})
        self.origins = _trace_back({**{name: (name,) for name in named_extras}, **self.origins}, steps, made)
        merged = _trace_back(self.merged, steps, made)
        self.merged = {name: adapters for name, adapters in merged.items() if adapters}
        self.tensors = made

    def merge(self, lora: Lora, adapters: Adapters) -> None:
        """Merge an adapter. Raises as `Adapters.merge` does, and EditError for a weight that is part of a composite."""
        result, findings = adapters.merge(lora, self.tensors)
        whole_of = {part: name for name, whole in self.composites.items() for part in whole.parts.values()}
        if touched_wholes := [whole_of[name] for name in result.touched if name in whole_of]:
            whole = self.composites[touched_wholes[0]]
            raise EditError(
                f"{lora.label}: {touched_wholes[0]!r} is {whole.summary}",
                hint="--dequantize turns it into floats first",
            )
        self.tensors = result.tensors
        self.origins |= dict.fromkeys(result.added, ())
        self.merged |= {name: (*self.merged.get(name, ()), lora.text) for name in result.touched}
        self.findings += findings


def _trace_back(before: Origins, steps: Sequence[Step], names: Iterable[str]) -> Origins:
    """The origins after these steps: a target has the origins of all sources that it was made of, each once."""
    of_targets = {
        target: tuple(dict.fromkeys(origin for name in step.sources for origin in before.get(name, ())))
        for step in steps
        for target in step.targets
    }
    return {name: of_targets.get(name) or before.get(name, ()) for name in names}
