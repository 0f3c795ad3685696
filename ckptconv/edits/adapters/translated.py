"""Merges an adapter with diffusers' names into a single file with its own names (ldm), and the other way round.

The base is translated, the adapter merged, and what it changed is translated back. In a fused matrix, only the rows of
the query may change; of a matrix that was split, each part gets its own rows. Everything else stays the base's, where
it lies.
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
from ckptconv.edits.ordered import OrderedMap
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.core.edit import Edit
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.adapters.adapter import Merge

    Tensors = dict[str, LazyTensor]

LABEL = "--lora"


def translate(base: Mapping[str, LazyTensor]) -> list[Edit] | None:
    """The edits that give diffusers' names to a single file of a diffusion model, or the other way round.

    None if the base is neither, or only a part of one.
    """
    infos = infos_of(base)
    with suppress(EditError, UnsupportedError):
        changes = (ldm if ldm.known(base) else to_ldm).changes(infos, {})
        check_parts(count_parts(changes, infos), sum(info.nbytes for info in infos.values()))
        return edits_for(changes, base) or None
    return None


def merge_translated(base: Mapping[str, LazyTensor], wanted: list[Edit], merge: Callable[[Tensors], Merge]) -> Merge:
    """The base, under its own names, with what `merge` changes under translated ones.

    wanted: the edits that translate the base. Raises EditError, UnsupportedError.
    """
    tensors = OrderedMap(base)
    origins = {name: {name} for name in base}
    edits: list[Edit] = []
    for edit in wanted:
        edits += _with_sizes(edit, tensors)
        steps = apply_edit(tensors, edit, LABEL)
        new_origins = {
            target: set().union(*(origins[source] for source in step.sources))
            for step in steps
            for target in step.targets
        }
        origins = {name: new_origins[name] if name in new_origins else origins[name] for name in tensors}
    result = merge(dict(tensors))
    changed_names: set[str] = set().union(*(origins[name] for name in result.touched))
    needed, translated_names = _steps_through(edits, changed_names)
    back = OrderedMap({name: result.tensors[name] for name in translated_names})
    for edit in inverted(needed):
        apply_edit(back, edit, LABEL)
    changed = dict.fromkeys(name for name in base if name in changed_names)
    return replace(result, tensors={name: back.get(name, tensor) for name, tensor in base.items()}, changed=changed)


def _with_sizes(edit: Edit, tensors: Mapping[str, LazyTensor]) -> list[Edit]:
    """The edit; a concat as one edit for each step, with the sizes that undo it."""
    if edit.kind != "concat":
        return [edit]
    axis = edit.details["axis"]
    assert isinstance(axis, int)
    return [
        replace(edit, sources=step.sources, targets=step.targets, steps=(step,),
                details={**edit.details, "sizes": [tensors[name].info.shape[axis] for name in step.sources]})
        for step in edit.steps
    ]  # fmt: skip


def _steps_through(edits: list[Edit], wanted: set[str]) -> tuple[list[Edit], set[str]]:
    """The edits reduced to the steps that these tensors go through, and the tensors' names after them."""
    names, needed = set(wanted), []
    for edit in edits:
        steps = tuple(step for step in edit.steps if names.intersection(step.sources))
        if not steps:
            continue
        needed.append(replace(edit, steps=steps, sources=steps[0].sources, targets=steps[0].targets))
        names -= {name for step in steps for name in step.sources}
        names |= {name for step in steps for name in step.targets}
    return needed, names
