"""Merging an adapter that has diffusers' names into a single file that has its own (ldm), and the other way round.

The base is translated, the adapter merged, and what it touched is translated back: in a fused matrix the rows of a
query alone become others, and of a matrix that is apart each part gets its own. All else is the base's, as it lies
there.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.tensor import infos_of
from ckptconv.edits.apply import apply_edit
from ckptconv.edits.dialects import ldm, to_ldm
from ckptconv.edits.dialects.change import check_parts, count_parts, edits_for
from ckptconv.edits.invert import inverted
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.core.edit import Edit
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.adapters.adapter import Merge

    Tensors = dict[str, LazyTensor]

LABEL = "--lora"


def translate(base: Mapping[str, LazyTensor]) -> list[Edit] | None:
    """The edits that give diffusers' names to a single file of a diffusion model, or its release's to what has
    diffusers'; None where it is neither, or a part.
    """
    infos = infos_of(base)
    with suppress(EditError, UnsupportedError):
        changes = (ldm if ldm.known(base) else to_ldm).changes(infos, {})
        check_parts(count_parts(changes, infos), sum(info.nbytes for info in infos.values()))
        return edits_for(changes, base) or None
    return None


def merge_translated(base: Mapping[str, LazyTensor], wanted: list[Edit], merge: Callable[[Tensors], Merge]) -> Merge:
    """What `merge` makes of the base under diffusers' names, under its own. Raises EditError, UnsupportedError."""
    tensors = dict(base)
    origins = {name: {name} for name in base}
    edits: list[Edit] = []
    for edit in wanted:
        edits += _with_sizes(edit, tensors)
        tensors, steps = apply_edit(tensors, edit, LABEL)
        come = {
            target: set().union(*(origins[one] for one in step.sources)) for step in steps for target in step.targets
        }
        origins = {name: come[name] if name in come else origins[name] for name in tensors}
    made = merge(tensors)
    old: set[str] = set().union(*(origins[name] for name in made.touched))
    few, live = _about(edits, old)
    back = {name: made.tensors[name] for name in live}
    for edit in inverted(few):
        back, _ = apply_edit(back, edit, LABEL)
    changed = dict.fromkeys(name for name in base if name in old)
    return replace(made, tensors={name: back.get(name, tensor) for name, tensor in base.items()}, changed=changed)


def _with_sizes(edit: Edit, tensors: Mapping[str, LazyTensor]) -> list[Edit]:
    """The edit; where it joins tensors, with the lengths that undo it."""
    if edit.kind != "concat":
        return [edit]
    axis = edit.details["axis"]
    assert isinstance(axis, int)
    return [
        replace(edit, sources=step.sources, targets=step.targets, steps=(step,),
                details={**edit.details, "sizes": [tensors[name].info.shape[axis] for name in step.sources]})
        for step in edit.steps
    ]  # fmt: skip


def _about(edits: list[Edit], wanted: set[str]) -> tuple[list[Edit], set[str]]:
    """The steps that these tensors go through, and their names at the end."""
    live, few = set(wanted), []
    for edit in edits:
        steps = tuple(step for step in edit.steps if live.intersection(step.sources))
        if not steps:
            continue
        few.append(replace(edit, steps=steps, sources=steps[0].sources, targets=steps[0].targets))
        live -= {name for step in steps for name in step.sources}
        live |= {name for step in steps for name in step.targets}
    return few, live
