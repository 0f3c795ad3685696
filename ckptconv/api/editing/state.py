"""A checkpoint's tensors between edits, and where each of them comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.apply import apply_edit
from ckptconv.edits.composites import Composites, select_whole
from ckptconv.edits.ordered import OrderedMap
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Sequence

    from ckptconv.api.editing.edits import Origins
    from ckptconv.api.editing.lora import Lora
    from ckptconv.api.editing.step_files import StepFiles
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.edit import Edit, Step
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor


@dataclass(slots=True)
class State:
    """The tensors after the edits so far.

    source:   the checkpoint that they come from, unchanged.
    origins:  for each name, in any order, the names in the source that its tensor is made of.
    merged:   for each name, the adapters that were merged into its tensor.
    findings: what to report about the edits.
    """

    source: Checkpoint
    tensors: OrderedMap[LazyTensor]
    extras: dict[str, LazyTensor]
    composites: Composites
    origins: Origins = field(default_factory=dict)
    merged: Origins = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @classmethod
    def of(cls, source: Checkpoint, select: Sequence[str], drop: Sequence[str]) -> State:
        """The model's tensors that these globs select. Raises EditError for a glob that matches none."""
        chosen = select_whole(list(source), select, drop, source.composites_of(source))
        tensors = OrderedMap({name: source[name] for name in chosen})
        composites = Composites(source.composites_of({**tensors, **source.extras}))
        return cls(source, tensors, dict(source.extras), composites, {name: (name,) for name in chosen})

    def apply(self, edit: Edit, label: str) -> None:
        """Apply one edit. Extras take part if a step names them; they cannot be renamed or dropped.

        Costs time linear in the names in its steps, and in all tensors if its patterns have a ``{*}``.
        """
        named = {name for step in edit.steps for name in (*step.sources, *step.targets)}
        named_extras = self._extras_among(named)
        self.tensors.update({name: self.extras[name] for name in named_extras})
        steps = apply_edit(self.tensors, edit, label)
        self.composites.apply(edit, steps, label, self.tensors)
        if gone := [name for name in named_extras if name not in self.tensors]:
            raise EditError(
                f"{label}: {gone[0]!r} is outside of the state_dict, and stays there under its name",
                hint="edits may read such a tensor: give what they make of it a name of its own, or leave it out",
            )
        self.extras.update({name: self.tensors[name] for name in named_extras})
        self.tensors.remove(set(named_extras))
        self.origins.update({name: (name,) for name in named_extras if name not in self.origins})
        for traced in (self.origins, self.merged):
            _trace_back(traced, steps, self.tensors)

    def _extras_among(self, names: Collection[str]) -> list[str]:
        """The extras that are named, in their order."""
        found = [name for name in names if name in self.extras]
        return found if len(found) < 2 else [name for name in self.extras if name in names]

    def merge(self, lora: Lora, files: StepFiles) -> None:
        """Merge an adapter. Raises as `StepFiles.merge`, and EditError for a weight that is part of a composite."""
        result, findings = files.merge(lora, self.tensors)
        whole_of = {part: name for name, whole in self.composites.items() for part in whole.parts.values()}
        if touched_wholes := [whole_of[name] for name in result.touched if name in whole_of]:
            whole = self.composites[touched_wholes[0]]
            raise EditError(
                f"{lora.label}: {touched_wholes[0]!r} is {whole.summary}",
                hint="--dequantize turns it into floats first",
            )
        self.tensors = OrderedMap(result.tensors)
        self.origins |= dict.fromkeys(result.added, ())
        self.merged |= {name: (*self.merged.get(name, ()), lora.text) for name in result.touched}
        self.findings += findings


def _trace_back(traced: Origins, steps: Sequence[Step], names: Container[str]) -> None:
    """What `traced` says of the steps' sources, it comes to say of the targets: of each, all that it was made of, each
    once. Names that are not among `names` any more are left out.
    """
    of_targets = {
        target: tuple(dict.fromkeys(origin for name in step.sources for origin in traced.get(name, ())))
        for step in steps
        for target in step.targets
    }
    for name in (name for step in steps for name in (*step.sources, *step.targets)):
        if name not in names:
            traced.pop(name, None)
    traced.update((name, origins) for name, origins in of_targets.items() if name in names)
